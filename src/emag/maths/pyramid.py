"""A Laplacian pyramid of any size of image that adds up to the image again, up to rounding."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def laplacian(x: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """Bands of `x` [batch, planes, height, width], finest first; the last is the coarse rest. Linear in `x`.

    Each level halves both sides, rounded up; a constant is in the coarse rest alone. One level is `x` itself. On sides that
    kornia does not pad, the bands are kornia's.
    """
    bands = []
    for _ in range(levels - 1):
        coarse = shrink(x)
        # what shrinking lost; adding it back to the grown rest gives the image again
        bands.append(x - grow(coarse, x.shape[-2:]))
        x = coarse
    return [*bands, x]


def collapse(bands: Sequence[torch.Tensor]) -> torch.Tensor:
    """Inverse of `laplacian`: bands, finest first, to [batch, planes, height, width]."""
    *details, x = bands
    for band in reversed(details):
        x = band + grow(x, band.shape[-2:])
    return x


def shrink(x: torch.Tensor) -> torch.Tensor:
    """`x` [..., height, width] blurred, and the mean of each pair of rows and columns; an odd last one stands alone."""
    return F.avg_pool2d(blur(x, BINOMIAL), 2, ceil_mode=True)


def grow(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """`x` [..., height, width] at twice its size (bilinear), cropped to `size` (height, width), then blurred."""
    doubled = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    return blur(doubled[..., :size[0], :size[1]], BINOMIAL)


def blur(x: torch.Tensor, taps: Sequence[float]) -> torch.Tensor:
    """`x` [..., height, width] convolved with `taps` along both sides, mirrored at the edges (edge pixel not repeated)."""
    for dim in (-2, -1):
        n, reach = x.shape[dim], len(taps) // 2
        last = n - 1
        # |i| mirrors at the first pixel, last - |last - i| at the last one: reflect padding as indices
        at = last - (last - torch.arange(-reach, last + reach + 1, device=x.device).abs()).abs()
        wide = x.index_select(dim, at.clamp(0, last))  # sides shorter than the taps repeat what they have
        x = torch.stack([tap * wide.narrow(dim, i, n) for i, tap in enumerate(taps)]).sum(0)
    return x
