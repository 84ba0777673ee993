"""Epsilon scaling against exposure bias."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import Branches, Rule, Step
from ...errors import BadValue


@dataclass(frozen=True)
class EpsilonScaling(Rule):
    """Epsilon scaling: make every predicted noise a little smaller.

    A sampler sees its own errors, which training never showed; they add up to too much noise (exposure bias). On a flow
    model's path the velocity is divided instead, as ComfyUI's node does: there a smaller epsilon would be an infinite
    velocity at pure noise. Works on the combined prediction: name a combining rule before it.

    Args:
        divisor: lambda, above 0; 1 is off, above 1 removes less noise at each step; 1.005 in a
            port of the paper's.

    >>> import emag
    >>> emag.EpsilonScaling(1.0).neutral
    True
    """

    divisor: float = 1.005

    name = "epsilon-scaling"
    paper = "arXiv 2308.15321"
    equation = "epsilon / lambda (velocity / lambda on a flow model's path)"
    kind = "after"
    space = "path"

    def __post_init__(self) -> None:
        if self.divisor <= 0:
            raise BadValue(f"epsilon-scaling divisor must be above 0 (1 is off), got {self.divisor}")

    @property
    def neutral(self) -> bool:
        return self.divisor == 1

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        return pred / self.divisor
