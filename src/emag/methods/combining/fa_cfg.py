"""FA-CFG: stronger guidance on the band that a higher resolution adds."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...errors import BadValue
from ...schedules import Scale
from ..common.two_bands import TwoBands


@dataclass(frozen=True)
class FACFG(TwoBands):
    """Frequency-aware guidance of FreCaS: push harder on the detail that a higher resolution adds.

    For the later stages of a run in rising resolutions (`emag.hosts.cascade`); the first stage takes plain CFG. The
    push is D = p - u, p the running prediction and u the unconditional one. L(D) is D brought to the size of the
    previous stage and back (bilinear, corners not aligned, no antialias), each frame by itself. L(D) and the rest,
    D - L(D), have a scale each.

    Args:
        high: w of the band that the stage adds, at least 0, or a schedule with its scale; 1 is off. 35 is the
            authors' for SDXL and SD3; 45 on SD2.1 at 1024.
        low: w of what was there before, at least 0, or a schedule with its scale; 1 is off. 7.5 is the authors' for
            SDXL.
        previous: sides of the previous stage's latents as a fraction in (0, 1] of this one's.
        size: the previous stage's latents as (height, width), (1, length) for audio, in place of `previous`; None
            takes that.

    >>> import emag
    >>> emag.FACFG(high=35.0, low=7.5, size=(64, 64)).equation
    'p + (low - 1) L(D) + (high - 1) (D - L(D))'
    """

    high: Scale = 35.0
    low: Scale = 7.5
    previous: float = 0.5
    size: tuple[int, ...] | None = None

    name = "fa-cfg"
    paper = "arXiv 2410.18410"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.previous <= 1:
            raise BadValue(f"fa-cfg previous is a fraction in (0, 1], got {self.previous}")
        if self.size is not None and (len(self.size) != 2 or not all(isinstance(n, int) and n >= 1 for n in self.size)):
            raise BadValue(f"fa-cfg size is (height, width) of the previous stage's latents, got {self.size}")

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        """What of `x` [batch, planes, height, width] survives the size of the previous stage."""
        sides = x.shape[-2:]
        size = self.size or [max(1, round(side * self.previous)) for side in sides]
        small = F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
        return F.interpolate(small, size=tuple(sides), mode="bilinear", align_corners=False)
