"""Guidance with a scale for each place."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import RunStart, Step
from ...errors import BadValue
from ...maths.layout import pack, unpack
from ...maths.vectors import divided
from ..common.scaled import Scaled


@dataclass(frozen=True)
class SAMG(Scaled):
    """SAMG: a lower scale where the two predictions are far apart, a higher one where they agree.

    E is the mean square of D = p - u over channels, at each place, brought to [0, 1] over the sample. The scale runs from
    1 + (w - 1) most at the calmest place to 1 + (w - 1) least at the one with the largest D. The same in every space.

    Args:
        scale: w, the scale between the two, at least 0, or a schedule; 1 is off. None takes the model's default.
        least: share of w - 1 at the place with the largest difference, at least 0. Published as scales of 5 to 12 for
            SD1.5 and SDXL, in the place of 7.5: 4 / 6.5 and 11 / 6.5 of w - 1. Read off a port.
        most: share of w - 1 at the calmest place, at least `least`. 1 for both is CFG.

    >>> import emag
    >>> emag.SAMG(7.5).space is None
    True
    """

    least: float = 4 / 6.5
    most: float = 11 / 6.5

    name = "samg"
    paper = "arXiv 2604.26503"
    equation = "p + (w - 1) (most - E (most - least)) D, E = |D|^2 over channels, from 0 to 1 over the places"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.least <= self.most:
            raise BadValue(f"samg needs 0 <= least <= most (1 for both is CFG), got {self.least} and {self.most}")

    def fits_run(self, start: RunStart) -> None:
        unpack(start.first.x, start.first)

    def joined(self, pred: torch.Tensor, null: torch.Tensor, scale: float | torch.Tensor, step: Step,
               state: dict[str, Any]) -> torch.Tensor:
        push = unpack(pred - null, step)
        share = self.most - apart(push) * (self.most - self.least)
        return pred + (scale - 1) * pack(share * push, step)


def apart(push: torch.Tensor) -> torch.Tensor:
    """Where `push` [batch, channels, ...] is large: [batch, 1, ...] from 0 to 1 over a sample, 0 if all places are alike."""
    energy = push.square().mean(1, keepdim=True)
    places = tuple(range(1, energy.ndim))
    low, high = energy.amin(places, keepdim=True), energy.amax(places, keepdim=True)
    return divided(energy - low, high - low)
