"""Frequency-decoupled guidance: a scale for each band of a Laplacian pyramid."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Rule, RunStart, Step
from ...errors import BadValue
from ...maths.layout import from_planes, planes
from ...maths.pyramid import collapse, laplacian
from ...maths.vectors import project, widened
from ...schedules import Scale, known, weight
from ..common.two_bands import check_band


@dataclass(frozen=True)
class FDG(Rule):
    """Frequency-decoupled guidance: a scale of its own for fine detail and for coarse structure.

    The bands are those of a Laplacian pyramid over height and width, of each frame in a video, over the length in
    audio. In each band k the push D = p - u, p the running prediction and u the unconditional one, is split into its
    part parallel to p's own band and the orthogonal rest, per sample, in x0. Linear in D at parallel 1, and then the
    same in every space.

    diffusers by default adds w_k times the push to u where this adds w_k - 1 times to p, as published: the two differ
    by (1 - eta_k) times the parallel part.

    Args:
        scales: w of each band, finest first, each a number of at least 0, or a schedule with its scale (an interval
            in units of progress gives a band a start and a stop); 1 is off. (10, 5) is the paper's for SDXL, untested
            elsewhere.
        parallel: eta, the share of the parallel part that is kept, in [0, 1], one value or one per band.

    >>> import emag
    >>> emag.FDG((10.0, 5.0), parallel=0.5).parallel
    (0.5,)
    """

    scales: tuple[Scale, ...] | tuple[float, ...] = (10.0, 5.0)
    parallel: tuple[float, ...] = (1.0,)

    name = "fdg"
    paper = "arXiv 2506.19713"
    equation = "p + sum over bands of (w_k - 1) (orthogonal_k + eta_k parallel_k), in x0"
    kind = "combining"
    space = "x0"

    def __post_init__(self) -> None:
        for field in ("scales", "parallel"):
            value = getattr(self, field)
            object.__setattr__(self, field, tuple(value) if isinstance(value, (list, tuple)) else (value,))
        if not self.scales:
            raise BadValue("fdg scales needs one scale per band, finest first, e.g. (10, 5)")
        for scale in self.scales:
            check_band(self.name, "scales", scale)
        if len(self.parallel) not in (1, len(self.scales)):
            raise BadValue(f"fdg parallel is one share, or one for each of {len(self.scales)} bands, got {self.parallel}")
        if not all(0 <= share <= 1 for share in self.parallel):
            raise BadValue(f"fdg parallel must lie in [0, 1], got {self.parallel}")

    def fits_run(self, start: RunStart) -> None:
        planes(start.first.x, start.first)

    def reads_null(self, step: Step) -> bool:
        return any(known(scale, step) != 1 for scale in self.scales)

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        wide = widened(pred)
        # the pyramid is linear, so bands of D can be scaled one by one and added up again
        ours, shift = (laplacian(planes(x, step), len(self.scales)) for x in (wide, wide - branches[UNCOND].to(wide.dtype)))
        moved = []
        for k, band in enumerate(shift):
            scale = weight(self.scales[k], branches, step, state.setdefault(f"band {k}", {}), band)
            moved.append((scale - 1) * self._turned(k, band, ours[k]))
        return (wide + from_planes(collapse(moved), step, wide)).to(pred.dtype)

    def _turned(self, k: int, shift: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        share = self.parallel[k % len(self.parallel)]
        if share == 1:
            return shift
        parallel, orthogonal = project(shift.double(), onto.double())
        return (orthogonal + share * parallel).to(shift.dtype)
