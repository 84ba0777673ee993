"""The coarse half of one level of a wavelet transform of planes of any size."""

import torch
import torch.nn.functional as F

SYM4 = (0.0322231006040427, -0.012603967262037833, -0.09921954357684722, 0.29785779560527736, 0.8037387518059161,
        0.49761866763201545, -0.02963552764599851, -0.07576571478927333)
"""The low-pass filter of Daubechies' least asymmetric wavelet with four vanishing moments."""


def coarse_half(x: torch.Tensor) -> torch.Tensor:
    """What the low-pass half of one level of sym4 holds of `x` [..., height, width], at its size; linear in `x`.

    Sides are mirrored at their ends, the last value repeated (PyWavelets' "symmetric"), so that a constant is in it alone
    whatever the size. The rest are the three bands of detail.
    """
    return _along(_along(x, -1), -2)


def _along(x: torch.Tensor, dim: int) -> torch.Tensor:
    n, reach = x.shape[dim], len(SYM4)
    lines = x.movedim(dim, -1)
    # a line mirrored over and over repeats after 2 n values
    at = torch.arange(-reach, n + reach, device=x.device) % (2 * n)
    wide = lines[..., torch.minimum(at, 2 * n - 1 - at)]
    taps = torch.tensor(SYM4, dtype=x.dtype, device=x.device).view(1, 1, -1)
    # each pair of values gives one coefficient, and each coefficient the filter again: the filter is orthonormal
    kept = F.conv_transpose1d(F.conv1d(wide.reshape(-1, 1, wide.shape[-1]), taps, stride=2), taps, stride=2)
    return kept[..., reach:reach + n].reshape(lines.shape).movedim(-1, dim)
