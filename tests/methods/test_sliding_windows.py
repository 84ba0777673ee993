"""Sliding window guidance: the network on parts of the image, put together again."""

import pytest
import torch

import emag
from emag.errors import BadValue, Unsupported
from emag.methods.weak.swg import Windows, WindowsState
from emag.testing.cases import every
from reference import at_step, tensors
from tiny import CASES
from whole_blocks import answer, close, evaluated

SPATIAL = pytest.mark.parametrize("case", [CASES[name] for name in ("sd3", "dit", "pixart")], ids=lambda case: case.name)


def made(spec, net, seed=1):
    """The weak prediction of `net`, a function of x, and its clean one."""
    x, = tensors(seed, 1, 2, 4, 8, 8)
    state = WindowsState(spec)
    state.predicted(at_step(x=x), net(x))
    windows = state.inputs({"hidden_states": torch.cat([x] * spec.copies)}, ())["hidden_states"]
    return state.at_step(net(windows)), net(x)


def test_a_network_that_looks_at_each_pixel_alone_sees_no_windows():
    for spec in (Windows(0.625, 2, 1, True), Windows(0.5, 3, 2, False)):
        close(*made(spec, torch.tanh))


def test_what_windows_say_is_averaged_and_one_alone_is_left():
    """A network that gives the number of its window everywhere: 0, 1, 2, 3 for the four."""
    def numbered(x):
        count = len(x) // 2
        return torch.arange(count).repeat_interleave(2).view(-1, 1, 1, 1).expand_as(x).float() + (0 if count > 1 else 9)

    everywhere, cond = made(Windows(0.75, 2, 2, False), numbered)
    assert everywhere[0, 0, 0].tolist() == [0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1]
    assert everywhere[0, 0, :, 0].tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    assert (everywhere[:, :, 2:6, 2:6] == 1.5).all()
    masked, _ = made(Windows(0.75, 2, 2, True), numbered)
    corners = torch.zeros(8, 8, dtype=torch.bool)
    corners[:2, :2] = corners[:2, 6:] = corners[6:, :2] = corners[6:, 6:] = True
    assert torch.equal(masked[0, 0][corners], cond[0, 0][corners])
    assert torch.equal(masked[0, 0][~corners], everywhere[0, 0][~corners])


@SPATIAL
def test_each_window_is_an_image_of_its_own(case):
    pipe, rule = case.pipe(), emag.SWG(1.1, 0.75, unit=2)
    seen, handle = evaluated(case, rule, emag.CFG(3.0), pipe=pipe, steps=2)
    clean, weak = seen[0].values["hidden_states"][-2:], seen[1]
    parts = weak.values["hidden_states"].chunk(4)
    for part, (rows, columns) in zip(parts, rule.perturbation.windows(8, 8), strict=True):
        assert torch.equal(part, clean[..., rows, columns])
    close(weak.out, answer(pipe.transformer, weak.values), atol=1e-9, rtol=1e-9)
    assert handle.stats.evaluations == handle.stats.planned == 2 * 4 * (2 + 4)


def test_the_published_windows_of_edm2():
    spec = emag.SWG(1.2).perturbation
    assert spec.along(64) == [slice(0, 40), slice(24, 64)]
    overlapping = torch.zeros(64, 64)
    for rows, columns in spec.windows(64, 64):
        overlapping[rows, columns] += 1
    assert float((overlapping > 1).float().mean()) == 0.4375


def test_windows_are_whole_patches():
    spec = Windows(0.7, 2, 2, True)
    assert spec.along(32, 4) == [slice(0, 24), slice(8, 32)] and spec.along(32) == [slice(0, 22), slice(10, 32)]
    state = WindowsState(spec)
    state.place((8, 8))
    x, = tensors(2, 1, 8, 3, 32, 32)
    assert state.inputs({"hidden_states": x}, ())["hidden_states"].shape == (8, 3, 24, 24)


@pytest.mark.parametrize("values", [{"share": 1.0}, {"share": 0.0}, {"count": 1}, {"unit": 0}])
def test_values_are_checked(values):
    with pytest.raises(BadValue, match="swg needs"):
        emag.SWG(2.0, **values)


@pytest.mark.parametrize(("rule", "case", "said"), [
    (emag.SWG(2.0), "sd3", "do not cover a side of 8"), (emag.SWG(2.0, 0.3, unit=2), "sd3", "do not cover a side of 8"),
    (emag.SWG(2.0, unit=2), "flux", "cuts spatial latents"),
    (emag.SWG(2.0, 0.7, unit=2), "omnigen", "here are position_ids")])
def test_what_cannot_be_cut_is_refused(rule, case, said):
    pipe = every()[case].pipe()
    with pytest.raises((BadValue, Unsupported), match=said), emag.guide(pipe, rule):
        every()[case].run(pipe, num_inference_steps=2)


def test_windows_that_nowhere_overlap_are_refused_where_overlaps_are_guided():
    rule = emag.SWG(2.0, 0.5, unit=1)
    with pytest.raises(BadValue, match="nowhere overlap on a side of 8"):
        rule._check_windows([(8, 1), (8, 1)])
    rule._check_windows([(8, 1), (10, 6)])  # on one side they do
    emag.SWG(2.0, 0.5, unit=1, overlap=False)._check_windows([(8, 1), (8, 1)])
