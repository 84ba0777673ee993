"""The rule that all weak branches without a rule of their own share: push away from the weak prediction."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ...core import AUTO, COND, Branches, Perturbation, Rule, Step
from ...errors import BadValue
from ...schedules import Scale, check_scale, known, weight
from . import carried


@dataclass(frozen=True)
class Push(Rule):
    """Base of rules p + (w - 1) (cond - weak); a subclass says which `perturbation` makes the branch weak.

    Args:
        scale: w, at least 0, or a schedule; 1 is off. In the additive form p + s (cond - weak), s = w - 1. None takes
            the model's default, and is refused where there is none.
        every: one weak evaluation in so many steps, after the first two; in between, cond - weak is extrapolated.
        agree: cosine of the last two directions from which on a step goes without; -1 (the default) is all steps.
            Above -1 the device is asked once a step.
    """

    scale: Scale | None = None
    every: int = field(default=1, kw_only=True)
    agree: float = field(default=-1.0, kw_only=True)

    equation: ClassVar[str] = "p + (w - 1) (cond - weak)"
    kind = "weak"
    cost: ClassVar[str] = "one weak evaluation of the conditional rows per step, from the first block that differs on"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        carried.check_carried(self)
        layers = getattr(self, "layers", None)
        if layers is not None:
            object.__setattr__(self, "layers", layers_of(self.name, layers))

    @property
    def neutral(self) -> bool:
        return self.scale == 1

    @property
    def perturbation(self) -> Perturbation:
        """The weak branch, once layers are known."""
        raise NotImplementedError

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (self.perturbation,)

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return () if known(self.scale, step) == 1 else super().branches(step)

    def spares_weak(self, step: Step, state: dict[str, Any]) -> bool:
        return carried.spares(self, step, state)

    def away(self, branches: Branches) -> torch.Tensor | None:
        """The direction of the push, cond - weak; None where the branch is not evaluated."""
        return branches[COND] - branches[self.perturbation] if self.perturbation in branches else None

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        direction = carried.direction(self.away(branches), step, state)
        if direction is None:
            return pred
        return pred + (weight(self.scale, branches, step, state, pred) - 1) * direction


def layers_of(name: str, layers: Any) -> tuple[int, ...]:
    """Block numbers, each once; "auto" is AUTO. Raises `BadValue` for anything else."""
    if layers == "auto":
        return AUTO
    if isinstance(layers, (int, str)) or not layers or not all(type(layer) is int for layer in layers):
        raise BadValue(f"{name} layers is a list of block numbers, e.g. (6, 7, 8), or 'auto', or None for the model's, got "
                       f"{layers!r}")
    return tuple(dict.fromkeys(layers))
