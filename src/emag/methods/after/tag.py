"""Tangential amplifying guidance."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import Branches, Rule, Step
from ...maths.vectors import project
from ...schedules import Scale, check_scale, known, weight


@dataclass(frozen=True)
class TAG(Rule):
    """Tangential amplifying guidance: take a larger step in all directions but that of x itself.

    A step of the sampler has a part along x, which sets the noise level, and a part orthogonal to it, which changes the
    picture. This makes the second larger. For a solver of first order it is the published rule, which changes the step
    after the solver has made it, and the same in every prediction space. Works on the combined prediction: name a
    combining rule before it.

    Args:
        scale: eta, at least 0, or a schedule; 1 is off. 1.05 for SD3, 1.15 for SD1.5 and 1.2 for SDXL without
            guidance, as published; the noisy half of the run alone is better than all of it (an `Interval`).

    >>> import emag
    >>> emag.TAG(1.05).space is None
    True
    """

    scale: Scale = 1.05

    name = "tag"
    paper = "arXiv 2510.04533"
    equation = "p + (eta - 1) (p - P_x p), P_x the projection on x_t"
    kind = "after"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)

    @property
    def neutral(self) -> bool:
        return self.scale == 1

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if known(self.scale, step) == 1:
            return pred
        # along x, all four spaces differ; across it they differ by a factor, so that the push is the same in all
        _, across = project(pred.double(), step.x.double())
        return (pred + (weight(self.scale, branches, step, state, across) - 1) * across).to(pred.dtype)
