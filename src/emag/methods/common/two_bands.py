"""The rule that FA-CFG and HiWave share: one scale for coarse forms, another for fine detail."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ...core import UNCOND, Branches, Rule, RunStart, Step
from ...errors import BadValue
from ...maths.layout import from_planes, planes
from ...maths.vectors import widened
from ...schedules import Scale, Schedule, check_scale, known, weight


@dataclass(frozen=True)
class TwoBands(Rule):
    """Base of rules p + (low - 1) L(D) + (high - 1) (D - L(D)), D = p - u; a subclass says what of D is `coarse`, L(D).

    Args:
        high: w of the fine band, at least 0, or a schedule with its scale; 1 is off.
        low: w of the coarse band, likewise.
    """

    high: Scale = 1.0
    low: Scale = 1.0

    equation: ClassVar[str] = "p + (low - 1) L(D) + (high - 1) (D - L(D))"
    kind = "combining"

    def __post_init__(self) -> None:
        check_band(self.name, "high", self.high)
        check_band(self.name, "low", self.low)

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        """L: the coarse band of `x` [batch, planes, height, width], at its size; linear."""
        raise NotImplementedError

    def fits_run(self, start: RunStart) -> None:
        planes(start.first.x, start.first)

    def reads_null(self, step: Step) -> bool:
        return known(self.high, step) != 1 or known(self.low, step) != 1

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        wide = widened(pred)
        push = wide - branches[UNCOND].to(wide.dtype)
        coarse = from_planes(self.coarse(planes(push, step)), step, push)
        low, high = (weight(scale, branches, step, state.setdefault(band, {}), wide)
                     for band, scale in (("low", self.low), ("high", self.high)))
        return (wide + (low - 1) * coarse + (high - 1) * (push - coarse)).to(pred.dtype)


def check_band(name: str, field: str, scale: Scale) -> None:
    """Raise `BadValue` where a band's scale is neither a number of at least 0 nor a schedule that says its own."""
    check_scale(name, scale, field=field)
    if scale is None or (isinstance(scale, Schedule) and scale.scale is None):
        raise BadValue(f"{name} {field}: a schedule here needs a scale of its own, e.g. interval:10")
