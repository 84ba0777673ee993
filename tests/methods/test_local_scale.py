"""A scale of its own for each place."""

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


@pytest.mark.parametrize("make", [lambda: emag.SAMG(-1.0), lambda: emag.SAMG(2.0, -0.1), lambda: emag.SAMG(2.0, 2.0, 1.0)])
def test_odd_shares_are_refused(make):
    with pytest.raises(BadValue, match="samg"):
        make()
