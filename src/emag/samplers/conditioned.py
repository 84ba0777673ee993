"""Models that know the conditions of their samples, and what parts of a sampler ask of them."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from ..maths.streams import digest
from .base import Corrector, GuidedModel, Solver


@runtime_checkable
class Conditional(Protocol):
    """What a `Model` may offer beside: it tells whose conditions are the same, and evaluates further ones."""

    def want(self, names: Sequence[str]) -> None:
        """Evaluate these conditions at every step too, into `latest` under their names, until told otherwise.

        Raises `BadValue` for a name that was not given.
        """

    def groups(self, count: int) -> list[int]:
        """A number for each of `count` samples: equal where their conditions are."""


def groups_of(model: GuidedModel, count: int) -> list[int]:
    """`Conditional.groups`; of a model that does not tell, all samples share one condition."""
    return model.groups(count) if isinstance(model, Conditional) else [0] * count


def want(model: GuidedModel, parts: Sequence[Corrector | Solver]) -> None:
    """Ask `model` for the conditions that the parts of a sampler read."""
    if isinstance(model, Conditional):
        model.want(tuple(dict.fromkeys(name for part in parts for name in part.conditions)))


def alike(conditions: Mapping[str, Any], count: int) -> list[int]:
    """A number for each of `count` samples: equal where, in all conditions, its row of tensors and entry of lists are."""
    keys = list(zip(*(list(_rows(value, count)) for value in conditions.values())))
    return [keys.index(key) for key in keys]


def _rows(value: Any, count: int) -> Iterable[Hashable]:
    """What tells `count` samples apart in one condition; what has not one row for each is shared by all."""
    if isinstance(value, Mapping) and value:
        return zip(*(list(_rows(part, count)) for part in value.values()))
    if isinstance(value, torch.Tensor) and value.ndim and len(value) == count:
        return map(digest, value)
    if isinstance(value, (list, tuple)) and len(value) == count:
        return [digest(part) if isinstance(part, torch.Tensor) else repr(part) for part in value]
    return [()] * count
