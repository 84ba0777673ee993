"""Self-guidance by the step before."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, Branches, Rule, Step
from ...errors import BadValue
from ..common.history import previous


@dataclass(frozen=True)
class SGPrev(Rule):
    """Self-guidance that costs nothing: push away from the conditional prediction of the step before.

    A network at a noisier step knows less. The full method evaluates it a second time at the same x, told a noisier
    time (`SG`); this takes what it said at the step before, in the network's own space. Name it after
    the combining rule.

    Args:
        strength: s, at least 0; 0 is off. 3 published for FLUX.
        until: share of the training schedule below which it acts, in [0, 1]; 0.5 published. The first step never has
            a step before.

    >>> import emag
    >>> emag.SGPrev(3.0).kind
    'after'
    """

    strength: float = 3.0
    until: float = 0.5

    name = "sg-prev"
    paper = "arXiv 2412.05827"
    equation = "p + s (c - c of the step before)"
    kind = "after"

    def __post_init__(self) -> None:
        if self.strength < 0 or not 0 <= self.until <= 1:
            raise BadValue(f"sg-prev strength is at least 0, until in [0, 1], got {self.strength} and {self.until}")

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        before = previous(step, state, branches[COND])
        if before is None or step.time >= self.until:
            return pred
        return pred + self.strength * (branches[COND] - before)
