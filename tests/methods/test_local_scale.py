"""A scale of its own for each place, a band of its own for each sample."""

import math

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.methods.combining.samg import apart
from test_free_methods import close, guided, tensors


def test_samg_by_hand():
    """Differences 1, 2 and 3 on one channel: their squares are 0, 3 / 8 and 1 of the way."""
    cond, uncond = torch.tensor([1.0, 2.0, 3.0]).double().view(1, 1, 1, 3), torch.zeros(1, 1, 1, 3).double()
    shares = torch.tensor([2.0, 2.0 - 3 / 8 * 1.5, 0.5]).double().view(1, 1, 1, 3)
    close(guided(emag.SAMG(3.0, 0.5, 2.0), cond, uncond), cond + 2 * shares * cond)


def test_samg_publishes_scales_from_5_to_12():
    cond, uncond = tensors(21, 2, 2, 4, 6, 6)
    share = (guided(emag.SAMG(7.5), cond, uncond) - uncond) / (cond - uncond)
    assert share.min() == pytest.approx(5) and share.max() == pytest.approx(12)
    assert (share.std(1) < 1e-9).all()  # one scale for all channels of a place


def test_samg_with_equal_shares_is_cfg_and_at_1_off():
    cond, uncond = tensors(22, 2, 3, 4, 6, 6)
    close(guided(emag.SAMG(3.0, 1.0, 1.0), cond, uncond), guided(emag.CFG(3.0), cond, uncond))
    assert torch.equal(guided(emag.SAMG(1.0), cond, uncond), cond)


def test_where_all_places_are_alike_none_is_held_back():
    even = torch.ones(2, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(apart(even), torch.zeros(2, 1, 4, 4, dtype=torch.float64))
    close(guided(emag.SAMG(2.0, 0.5, 1.5), 2 * even, even), 2 * even + 1.5 * even)


def wave(cycles, size=32):
    """One sample [1, 1, size, size] of so many cycles along a row."""
    return torch.cos(2 * math.pi * cycles * torch.arange(size) / size).double().expand(1, 1, size, size)


def test_fresca_finds_the_band_that_holds_a_share():
    """The mean holds a share of 0.4, and the band is still 3 cycles wide; 0.9 needs the wave of 6."""
    push, rest = torch.cat([5 + wave(3) + wave(6), 0.1 * wave(6)]), torch.zeros(2, 1, 32, 32).double()
    few, all_six = (guided(emag.FreSca(1.0, 1.0, 3.0, adaptive=share), push, rest) for share in (0.4, 0.9))
    near = {"atol": 1e-5, "rtol": 1e-5}  # transforms are of fp32
    close(few, torch.cat([5 + wave(3) + 3 * wave(6), 0.1 * wave(6)]), **near)  # the second sample has nothing but its wave
    close(all_six, push, **near)
    wide = guided(emag.FreSca(1.0, 1.0, 3.0, adaptive=0.99), wave(12), rest[:1])
    close(wide, 3 * wave(12), **near)  # at most a quarter of the side: 8 cycles


@pytest.mark.parametrize("make", [
    lambda: emag.FreSca(2.0, adaptive=1.0),
    lambda: emag.SAMG(-1.0), lambda: emag.SAMG(2.0, -0.1), lambda: emag.SAMG(2.0, 2.0, 1.0)])
def test_odd_shares_are_refused(make):
    with pytest.raises(BadValue, match=r"samg|fresca"):
        make()
