"""HiWave's detail rule: guidance on the fine bands of a wavelet transform alone."""

from dataclasses import dataclass

import torch

from ...maths.wavelets import coarse_half
from ...schedules import Scale
from ..common.two_bands import TwoBands


@dataclass(frozen=True)
class HiWave(TwoBands):
    """HiWave's detail enhancer: CFG on the fine bands of a wavelet transform, and not on the coarse one.

    The push is D = p - u, p the running prediction and u the unconditional one; L(D) is what the coarse half of one level
    of the sym4 wavelet holds of it, each frame by itself. So the layout stays that of p, and detail is guided hard: the
    authors use it at two and four times a model's size. Linear in D, so the same in every space. How the authors treat
    edges is unconfirmed; here sides are mirrored. The rest of their pipeline is not here: the start from the smaller image,
    inverted patch by patch, patches that overlap, and that image mixed in for the first steps.

    Args:
        high: w of the fine bands, at least 0, or a schedule with its scale; 1 is off. 7.5 is the authors' for SDXL.
        low: w of the coarse band, likewise; the authors' is 1. As large as `high` it is CFG.

    >>> import emag
    >>> emag.HiWave(7.5).low
    1.0
    """

    high: Scale = 7.5
    low: Scale = 1.0

    name = "hiwave"
    paper = "arXiv 2506.20452"

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        return coarse_half(x)
