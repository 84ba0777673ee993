"""What a run asks of its host."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch

from ..core import PLENTY, Part, Rows, Score, Sparing, Step
from .arguments import Arguments
from .trajectory import Trajectory

CallKind = Literal["both", "cond", "uncond", "other"]


class Ahead(Protocol):
    """What a host knows of a run before it begins."""

    uncond: bool  # unconditional rows are evaluated

    def trajectory(self) -> Trajectory:
        """The evaluations to come; asked at the first one."""
        ...


class Extras(Protocol):
    """What branches may be evaluated with beside the host's own network and condition."""

    def given(self, name: str) -> dict[str, Any]:
        """Network arguments of a further condition, one batch row or one per image."""
        ...

    def model(self, name: str) -> Callable[..., Any]:
        """Another network that can be called with the same arguments."""
        ...


class FurtherSight(Protocol):
    """What a host gives a run for rules that look further."""

    def decode(self, x0: torch.Tensor, step: Step, part: Part | None = None, sparing: Sparing = PLENTY) -> torch.Tensor:
        """Images [batch, 3, height, width] in [0, 1] of clean samples [batch, ...], or frames of videos; differentiable."""
        ...

    def score(self, name: str) -> Score:
        """The score of that name."""
        ...


class View(Ahead, Extras, FurtherSight, Protocol):
    """What a run asks of its host."""

    @property
    def alone(self) -> bool:
        """True where the host has stopped evaluating unconditional rows, in the middle of a run that began with some."""
        ...

    def kind(self, arguments: Arguments) -> CallKind:
        """What a network call is: both branches in one batch, one of the two, or the host's own business."""
        ...

    def rows(self, kind: CallKind, total: int) -> Rows:
        """Where the branches sit in a call of `total` rows; what is the host's own business counts as conditional."""
        ...
