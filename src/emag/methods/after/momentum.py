"""Momentum guidance."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import Branches, Rule, Step
from ...errors import BadValue
from ...maths.vectors import divided, norm
from ..common.history import moves_on


@dataclass(frozen=True)
class Momentum(Rule):
    """Momentum guidance: push the prediction away from its own running average over the steps.

    In the space where the path is straight: velocities of a flow model, epsilon elsewhere. The average is of what the
    rule is given, not of what it makes. A first-order solver with it looks ahead: decay 0 and strength 1/2 are the
    two-step Adams-Bashforth method on an even grid; a multistep solver does so by itself, and goes too far with both.
    Works on the combined prediction: name a combining rule before it.

    Args:
        strength: a, at least 0; 0 is off. 0.5 published for FLUX at its own guidance of 2.5 to 3.5; 1 to 1.5 with
            little CFG.
        decay: b of the average m <- (1 - b) p + b m, in [0, 1).
        start: flow time at and below which it pushes, in [0, 1]; 1 is pure noise.
        stop: flow time at and above which it pushes, in [0, 1], at most `start`. Outside the average goes on.
        normalise: give the average the norm of the prediction, per sample, before it is subtracted.

    >>> import emag
    >>> emag.Momentum(0.5).cost
    'none'
    """

    strength: float = 0.5
    decay: float = 0.6
    start: float = 0.95
    stop: float = 0.3
    normalise: bool = False

    name = "momentum"
    paper = "arXiv 2602.20360"
    equation = "p + a (p - m), m the running average of p"
    kind = "after"
    space = "path"

    def __post_init__(self) -> None:
        if self.strength < 0 or not 0 <= self.decay < 1:
            raise BadValue(f"momentum strength is at least 0, decay in [0, 1), got {self.strength} and {self.decay}")
        if not 0 <= self.stop <= self.start <= 1:
            raise BadValue(f"momentum needs 0 <= stop <= start <= 1 (flow times), got stop={self.stop}, start={self.start}")

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if moves_on(step, state):
            state["average"] = average = state.get("next", pred)
            state["next"] = torch.lerp(pred, average, self.decay)
        average = state["average"]
        if not self.stop <= step.flow_time <= self.start:
            return pred
        if self.normalise:
            average = average * divided(norm(pred), norm(average), otherwise=1.0)
        return pred + self.strength * (pred - average)
