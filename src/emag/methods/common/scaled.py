"""What combining rules with one scale share: at a scale that is known to be 1 they are off."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Rule, Step
from ...maths.vectors import widened
from ...schedules import Scale, check_scale, known, weight


@dataclass(frozen=True)
class Scaled(Rule):
    """Base of combining rules whose w is `scale`; a subclass says what is `joined` of p, u and w.

    Args:
        scale: w, at least 0, or a schedule; 1 is off. None takes the model's default.
    """

    scale: Scale | None = None

    kind = "combining"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)

    def reads_null(self, step: Step) -> bool:
        """False leaves p as it is. A rule that is not off at w = 1 says more here."""
        return known(self.scale, step) != 1

    def joined(self, pred: torch.Tensor, null: torch.Tensor, scale: float | torch.Tensor, step: Step,
               state: dict[str, Any]) -> torch.Tensor:
        """The result of p and u, [batch, ...] in at least fp32; scale: w, a number or one per sample, shaped to multiply."""
        raise NotImplementedError

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        wide = widened(pred)
        scale = weight(self.scale, branches, step, state, wide)
        return self.joined(wide, branches[UNCOND].to(wide), scale, step, state).to(pred.dtype)
