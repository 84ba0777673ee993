"""One level of a wavelet transform, and the rule that guides its fine bands."""

import pytest
import torch

import emag
from emag.core import UNCOND
from emag.errors import BadValue
from emag.maths.layout import from_planes, planes
from emag.maths.wavelets import SYM4, coarse_half
from test_frequency import LATENTS, SIZES, at, exact, guided, image, kinds

PUBLISHED = (3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0)
KEPT = (2.674627383, 2.232092007, 1.629912076, 3.457952049, 5.887319505, 5.616807975, 4.666859264, 4.572774520)
"""What PyWavelets 1.8 makes of the line above from one level of sym4, "symmetric", without its details."""


def test_the_coarse_half_is_that_of_pywavelets():
    made = coarse_half(torch.tensor(PUBLISHED, dtype=torch.float64).view(1, 1, 1, -1))
    torch.testing.assert_close(made.flatten(), torch.tensor(KEPT, dtype=torch.float64), atol=1e-8, rtol=0)


def test_it_is_the_projection_on_shifted_filters():
    """Sum over i of <x, f_i> f_i, f_i the filter at 2 i, x mirrored at its ends; every side in turn."""
    taps, x = torch.tensor(SYM4, dtype=torch.float64), image(1, 1, 5, 6)
    for side, n in ((2, 5), (3, 6)):
        rows = x.movedim(side, -1)
        mirrored = torch.cat([rows, rows.flip(-1)], dim=-1)
        found = torch.zeros_like(rows)
        for i in range(-4, 4):
            at_ = torch.arange(2 * i, 2 * i + 8)
            share = (mirrored[..., at_ % (2 * n)] * taps).sum(-1)
            inside = (at_ >= 0) & (at_ < n)
            found[..., at_[inside]] += share[..., None] * taps[inside]
        x = found.movedim(-1, side)
    exact(coarse_half(image(1, 1, 5, 6)), x)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_flat_planes_are_coarse_and_it_is_linear(size):
    exact(coarse_half(torch.full((1, 1, *size), 3.0, dtype=torch.float64)), torch.full((1, 1, *size), 3.0).double())
    a, b = image(2, 3, *size), image(2, 3, *size, seed=2)
    exact(coarse_half(2 * a - b), 2 * coarse_half(a) - coarse_half(b))


def test_smooth_planes_are_coarse_and_checkered_ones_fine():
    places = torch.arange(32, dtype=torch.float64)
    smooth = (places**3 / 1e3 - places).expand(1, 1, 32, 32)  # four moments of the wavelet vanish
    inside = (..., slice(8, -8), slice(8, -8))
    exact(coarse_half(smooth)[inside], smooth[inside])
    checkered = (1 - 2 * (places % 2)).expand(1, 1, 32, 32)
    assert coarse_half(checkered)[inside].abs().max() < 1e-10


@kinds
def test_hiwave_is_cfg_where_both_scales_are_one_and_leaves_the_coarse_band(kind):
    step, p = at(kind)
    exact(guided(emag.HiWave(4.0, 4.0), p, step), guided(emag.CFG(4.0), p, step))
    push = planes(p["cond"] - p[UNCOND], step)
    fine = from_planes(push - coarse_half(push), step, p["cond"])
    exact(guided(emag.HiWave(4.0), p, step), p["cond"] + 3 * fine)
    assert LATENTS[kind] == tuple(p["cond"].shape)


def test_odd_scales_are_refused():
    for wrong in ({"high": -1.0}, {"low": None}, {"high": emag.Curve()}):
        with pytest.raises(BadValue, match="hiwave"):
            emag.HiWave(**wrong)
