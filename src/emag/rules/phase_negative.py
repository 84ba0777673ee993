"""Phase-aware negative guidance: a louder negative prompt in the first steps."""

import math
from dataclasses import dataclass

import torch

from ..errors import BadValue
from ..guidance import UNCOND, Rule, Step


@dataclass(frozen=True)
class PhaseNegative(Rule):
    """The phase-aware negative of EchoMimicV3, arXiv 2507.03905: y_null <- scale y_null in the steps 0 to `steps`.

    The condition tensors of the unconditional rows, the negative prompt's, are multiplied; whatever combines sees what comes
    of it. With its text and audio scales: `conditions.phase_negative`.

    scale: finite; 1 is off. steps: the last step that is scaled, from 0. Defaults: the authors' preview (1.5 and 2).
    accumulate: multiply again at each of these steps and never undo it, as their code does (1.5, 2.25, 3.375, then 3.375 to
    the end); that the factor is meant for the first steps alone, as here by default, is unconfirmed.
    """

    scale: float = 1.5
    steps: int = 2
    accumulate: bool = False

    name = "phase-negative"
    paper = "arXiv 2507.03905"
    equation = "y_null <- scale y_null in the first steps"
    kind = "condition"
    of_null = True

    def __post_init__(self) -> None:
        if not isinstance(self.scale, (int, float)) or not math.isfinite(self.scale):
            raise BadValue(f"phase-negative scale must be a finite number (1 is off), got {self.scale!r}")
        if not isinstance(self.steps, int) or self.steps < 0:
            raise BadValue(f"phase-negative steps is the number of the last scaled step, at least 0, got {self.steps!r}")

    @property
    def neutral(self) -> bool:
        return self.scale == 1

    def factor(self, index: int) -> float:
        """What the negative is multiplied by at step `index`."""
        if self.accumulate:
            return float(self.scale ** (min(index, self.steps) + 1))
        return self.scale if index <= self.steps else 1.0

    def condition(self, cond: dict[str, torch.Tensor], step: Step) -> dict[str, torch.Tensor]:
        factor = self.factor(step.index)
        if step.branch != UNCOND or factor == 1:
            return cond
        return {name: y * factor if y.is_floating_point() else y for name, y in cond.items()}
