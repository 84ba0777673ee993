"""ZeResFDG: its two forms, and when a sample takes which."""

import pytest
import torch

import emag
from emag.errors import BadValue
from test_free_methods import close, guided, tensors

PLAIN = {"low": 1.0, "high": 1.0}
FINE, COARSE = {"up": 0.0, "down": 0.0}, {"up": 1.0, "down": 1.0}
"""Thresholds at which every sample takes one form."""


@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_without_gains_the_forms_are_cfg_rescaled_and_cfg_zero_star(phi):
    cond, uncond = tensors(1, 2, 2, 3, 6, 6)
    flow = {"space": "flow"}
    close(guided(emag.ZeResFDG(3.0, phi=phi, **PLAIN, **FINE), cond, uncond, **flow),
          guided((emag.CFG(3.0), emag.Rescale(phi)), cond, uncond, **flow))
    close(guided(emag.ZeResFDG(3.0, phi=phi, **PLAIN, **COARSE), cond, uncond, **flow),
          guided((emag.ZeroStar(), emag.CFG(3.0)), cond, uncond, **flow))


def by_hand(x, low, high, taps=(0.2741, 0.4519, 0.2741)):
    """F by sums over neighbours, mirrored at the edges; the taps of deviation 1."""
    smooth = x
    for dim in (-2, -1):
        n = x.shape[dim]
        at = [[1, *range(n - 1)], list(range(n)), [*range(1, n), n - 2]]
        smooth = sum(tap * smooth.index_select(dim, torch.tensor(i)) for tap, i in zip(taps, at, strict=True))
    return low * smooth + high * (x - smooth)


def test_each_band_has_its_gain():
    cond, uncond = tensors(2, 2, 2, 3, 6, 5)
    made = guided(emag.ZeResFDG(2.0, 0.6, 1.3, phi=0.0, **FINE), cond, uncond, space="flow")
    close(made, uncond + 2 * by_hand(cond - uncond, 0.6, 1.3), atol=1e-3, rtol=1e-3)
    share = ((cond * uncond).sum((1, 2, 3)) / uncond.square().sum((1, 2, 3))).view(2, 1, 1, 1)
    made = guided(emag.ZeResFDG(2.0, 0.6, 1.3, **COARSE), cond, uncond, space="flow")
    close(made, share * uncond + 2 * by_hand(cond - share * uncond, 0.6, 1.3), atol=1e-3, rtol=1e-3)


def test_a_sample_switches_up_and_back_by_itself():
    """A checkered push is fine, a flat one coarse; with no memory R is the share itself."""
    signs = torch.tensor([1.0, -1.0] * 3).double()
    checkered = (signs[:, None] * signs).expand(1, 1, 6, 6)
    flat, uncond = torch.ones(1, 1, 6, 6).double(), tensors(3, 1, 2, 1, 6, 6)[0]
    both = flat + checkered * 0.9  # between the two thresholds: each keeps the form it has
    rule, states = emag.ZeResFDG(2.0, decay=0.0, up=0.6, down=0.3), [{}]
    taken = []
    for index, pushes in enumerate(((flat, checkered), (both, both), (checkered, flat))):
        guided(rule, uncond + torch.cat(pushes), uncond, index=index, states=states, space="flow")
        taken.append(states[0]["fine"].flatten().tolist())
    assert taken == [[False, True], [False, True], [True, False]]


def test_the_share_is_a_running_mean_told_once_a_level():
    cond, uncond = tensors(4, 2, 1, 2, 6, 6)
    rule, states, found = emag.ZeResFDG(2.0, decay=0.8), [{}], []
    for index in (0, 0, 1):
        guided(rule, cond if index == 0 else uncond + 1, uncond, index=index, states=states, space="flow")
        found.append(float(states[0]["mean"]))
    assert found[0] == found[1] and found[2] == pytest.approx(0.8 * found[0])  # a flat push has nothing fine


@pytest.mark.parametrize("wrong", [
    {"low": -1.0}, {"sigma": 0.0}, {"phi": 2.0}, {"up": 0.2}, {"decay": 1.0}, {"scale": -1.0}])
def test_odd_settings_are_refused(wrong):
    with pytest.raises(BadValue, match="zeresfdg"):
        emag.ZeResFDG(**wrong)
