"""FasterCache's CFG-Cache: unconditional predictions from the conditional one and a kept difference."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Step
from ...errors import BadValue
from ...maths.layout import pack, unpack
from ..common.history import moves_on
from ..common.saver import Saver

Range = tuple[float, ...]


@dataclass(frozen=True)
class CFGCache(Saver):
    """CFG-Cache of FasterCache: guess most of the later unconditional predictions from a kept difference.

    On spared steps u = c + a_L d_L + a_H d_H. d_L and d_H are the parts of u - c in low and in high spatial
    frequencies (per frame), kept from the step evaluated last. In the network's own space: not the same in all
    spaces. Needs about half as many unconditional evaluations.

    Defaults: diffusers', which follow the authors' Latte script (there: low = 1.1 in the first 90 % of the steps,
    then high = 1.1); CogVideoX: low_range=(0.2, 1), high_range=(-1, 0.4); Mochi: low=1.15.

    Args:
        every: below the time `below`, u is evaluated on every so many steps only, at least 1; 1 is off.
        below: a time, as a fraction of the training schedule; 1 is noise.
        low: factor a_L, at least 0, where the time lies inside low_range; 1 outside.
        high: factor a_H, at least 0, where the time lies inside high_range; 1 outside.
        low_range: two times, the lower first, both excluded.
        high_range: two times, the lower first, both excluded.
        compounding: multiply the kept parts again on each spared step, as the authors' code does; False multiplies
            what was evaluated.
        radius: of the disk of low frequencies, as a share of the shorter side, at least 0.

    >>> import emag
    >>> emag.CFGCache(every=5).cost
    'spares the unconditional evaluation on most of the later steps'
    """

    every: int = 5
    below: float = 0.641
    low: float = 1.1
    high: float = 1.1
    low_range: Range = (0.099, 0.901)
    high_range: Range = (-1.0, 0.301)
    compounding: bool = True
    radius: float = 0.2

    name = "cfg-cache"
    paper = "arXiv 2410.19355"
    equation = "u <- c + a_L d_L + a_H d_H, d = u - c of the step evaluated last"
    cost = "spares the unconditional evaluation on most of the later steps"

    def __post_init__(self) -> None:
        if self.every < 1 or not -math.inf < self.below < math.inf:
            raise BadValue(f"cfg-cache needs every >= 1 (1 is off) and a time below, got {self.every} and {self.below}")
        if not all(0 <= value < math.inf for value in (self.low, self.high, self.radius)):
            raise BadValue(f"cfg-cache low, high and radius must be at least 0, got {self.low}, {self.high}, {self.radius}")
        for name, values in (("low_range", self.low_range), ("high_range", self.high_range)):
            if len(values) != 2 or not values[0] <= values[1]:
                raise BadValue(f"cfg-cache {name} must be two times, the lower first, got {values}")

    @property
    def neutral(self) -> bool:
        return self.every == 1

    def due(self, step: Step) -> bool:
        return step.index % self.every != 0 and step.time < self.below

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        cond = branches[COND]
        wide = unpack(cond if cond.dtype == torch.float64 else cond.float(), step)
        new = moves_on(step, state)
        if new:
            state["before"] = state.get("parts")
        if self.due(step) and state["before"] is not None:
            # the kept difference, its bands raised by the published factors while the step is in their range
            grown = [factor * part for factor, part in zip(self._factors(step), state["before"])]
            if self.compounding:
                state["parts"] = grown
            return pack(wide + grown[0] + grown[1], step).to(cond.dtype)
        if UNCOND in branches and new:
            apart = unpack(branches[UNCOND].to(wide.dtype), step) - wide
            low = low_pass(apart, self.radius)
            state["parts"] = [low, apart - low]
        return None

    def _factors(self, step: Step) -> tuple[float, float]:
        inside = [low < step.time < high for low, high in (self.low_range, self.high_range)]
        return self.low if inside[0] else 1.0, self.high if inside[1] else 1.0


def low_pass(x: torch.Tensor, radius: float) -> torch.Tensor:
    """The part of x at low spatial frequencies; fp32 or fp64, same shape.

    x: [batch, channels, (frames,) height, width] or [batch, channels, length]. Kept are frequencies (in cycles per side)
    inside a disk of floor(radius * shorter side), its edge included. The disk is symmetric, so the part of a real x is
    real.
    """
    dims = (-1,) if x.ndim < 4 else (-2, -1)
    sizes = [x.shape[dim] for dim in dims]
    places = [torch.arange(size, device=x.device) for size in sizes]
    # frequency i of n and n - i are one: distance from 0 on the ring
    squares = [place.minimum(size - place).square() for place, size in zip(places, sizes)]
    disk = torch.stack(torch.meshgrid(*squares, indexing="ij")).sum(0) <= math.floor(radius * min(sizes)) ** 2
    return torch.fft.ifftn(torch.fft.fftn(x, dim=dims) * disk, dim=dims).real
