"""Schedules that follow a run: feedback guidance, and guidance from the transition point on."""

import math
from dataclasses import replace

import pytest
import torch

import emag
from emag.core import COND, UNCOND
from emag.errors import BadValue
from emag.maths.predictions import from_x0
from emag.samplers import Path, sample
from emag.schedules.likelihood import variances
from reference import at_step, tensors

close = torch.testing.assert_close
PATHS = {"vp": Path.variance_preserving((0.98, 0.9, 0.7, 0.4, 0.1, 0.0)), "flow": Path.flow((1.0, 0.8, 0.6, 0.3, 0.1, 0.0))}


def published(levels, clean, xs, pi, top, onset, answer, base=1.0):
    """The scale of every step by the authors' loop; states, levels and clean = (c, u) in units of the clean sample."""
    count = len(levels)
    widths = [0.0] * count
    for i in range(count - 1):
        widths[count - i - 1] = (levels[i] ** 2 - levels[i + 1] ** 2) * levels[i + 1] ** 2 / levels[i] ** 2
    delta = math.log((1 - pi) * 3 / 2) / ((1 - onset) * count)
    at, share = int(answer * count), answer * count % 1
    tau = abs(2 * ((1 - share) * widths[at] + share * widths[at + 1]) / 10 * delta)
    least = math.log((1 - pi) * (top - base + 1) / (top - base))
    log, found = torch.zeros(len(xs[0])).double(), []
    for i in range(count):
        found.append(log.exp() / (log.exp() - (1 - pi)) + base - 1)
        if i + 1 < count:
            keep = levels[i + 1] ** 2 / levels[i] ** 2
            off = [(xs[i + 1] - keep * xs[i] - (1 - keep) * one).flatten(1).square().sum(1) for one in clean[i]]
            log = (log - tau / (2 * widths[count - i - 1]) * (off[0] - off[1]) + delta).clamp(least, 3)
    return found


def course(kind, start=0):
    """Levels (alpha, sigma), states and clean estimates (c, u) of a made-up run."""
    levels = [PATHS[kind].at(i) for i in range(start, 5)]
    xs, conds, unconds = (tensors(seed, 5, 3, 4, 6, 6) for seed in (1, 2, 3))
    return levels, [x.double() for x in xs], [(c.double(), (c + 0.3 * u).double()) for c, u in zip(conds, unconds)]


def scales(schedule, kind, space, levels, xs, clean):
    state, found = {}, []
    sigmas, alphas = tuple(s for _, s in levels), tuple(a for a, _ in levels)
    for i, (alpha, sigma) in enumerate(levels):
        step = at_step(kind, space, xs[i], index=i, sigmas=sigmas, alphas=alphas)
        preds = {name: from_x0(one, xs[i], alpha, sigma, space) for name, one in zip((COND, UNCOND), clean[i])}
        found.append(schedule.at(preds, step, state))
        assert torch.equal(schedule.at(preds, step, state), found[-1])  # a level that comes twice changes nothing
    return found


@pytest.mark.parametrize(("kind", "space"), [("vp", "epsilon"), ("vp", "v"), ("flow", "flow")])
@pytest.mark.parametrize("base", [1.0, 2.0])
def test_feedback_guidance_is_the_authors_loop(kind, space, base):
    levels, xs, clean = course(kind, start=kind == "flow")  # theirs has no level of pure noise
    schedule = emag.FBG(8.0, pi=0.9, onset=0.3, answer=0.5, base=base)
    ve = [sigma / alpha for alpha, sigma in levels]
    expected = published(ve, clean, [x / alpha for x, (alpha, _) in zip(xs, levels)], 0.9, 8.0, 0.3, 0.5, base)
    found = scales(schedule, kind, space, levels, xs, clean)
    for one, other in zip(found, expected, strict=True):
        close(one, other, atol=1e-9, rtol=1e-9)
    assert len({round(float(one[0]), 6) for one in found}) > 2 and max(float(one.max()) for one in found) <= 8 + 1e-9


def test_from_pure_noise_the_mean_is_the_clean_estimate():
    levels, xs, clean = course("flow")
    step = at_step("flow", "flow", xs[1], index=1, sigmas=tuple(s for _, s in levels), alphas=tuple(a for a, _ in levels))
    assert variances(step)[0] == pytest.approx((levels[1][1] / levels[1][0]) ** 2)  # the whole noise of the next level
    far, near = (emag.FBG(8.0, pi=0.9), {}), (emag.FBG(8.0, pi=0.9), {})
    for schedule, state in (far, near):
        schedule.at({COND: xs[0] - clean[0][0], UNCOND: xs[0] - clean[0][1]}, replace(step, index=0, x=xs[0]), state)
    reached = levels[1][0] * clean[0][0]  # exactly where the conditional estimate leads
    sure = near[0].at({COND: xs[1], UNCOND: xs[1]}, replace(step, x=reached), near[1])
    assert (sure < far[0].at({COND: xs[1], UNCOND: xs[1]}, replace(step, x=levels[1][0] * clean[0][1]), far[1])).all()


def test_where_the_predictions_agree_the_scale_is_3_at_the_onset():
    """Nothing is told then: log L falls by delta alone, to L / (L - (1 - pi)) = 3 after the share 1 - onset of the steps."""
    sigmas = tuple(0.9 - 0.08 * i for i in range(10))
    state, schedule, found = {}, emag.FBG(10.0, pi=0.9, onset=0.5), []
    same = tensors(4, 1, 2, 3, 4, 4)[0].double()
    for i in range(10):
        step = at_step("flow", "x0", same, index=i, sigmas=sigmas, alphas=tuple(1 - s for s in sigmas))
        found.append(float(schedule.at({COND: same, UNCOND: same}, step, state)[0]))
    assert found[0] == pytest.approx(1 / 0.9) and found[5] == pytest.approx(3) and found[-1] == pytest.approx(10)
    assert found == sorted(found)


def test_at_its_largest_value_1_it_is_off():
    step = at_step("flow", "flow", torch.zeros(1, 1, 2, 2))
    assert emag.FBG(1.0).known(step) == 1 and emag.FBG(3.0, base=3.0).known(step) == 3 and emag.FBG(3.0).known(step) is None


def test_guidance_starts_after_the_first_minimum_of_the_push():
    sizes = [5.0, 3.0, 2.0, 4.0, 1.0]  # of epsilon
    state, found = {}, []
    unit = torch.ones(2, 1, 1, 1).double()
    for i, size in enumerate(sizes):
        push = torch.tensor([size, 5.0 - i]).double().view(2, 1, 1, 1)  # the second sample's only falls
        step = at_step("vp", "epsilon", unit, index=i, sigmas=(0.9, 0.7, 0.5, 0.3, 0.1), alphas=(0.4, 0.6, 0.8, 0.9, 0.99))
        found.append(emag.Transition(6.0, 0.5).at({COND: unit + push, UNCOND: unit}, step, state).tolist())
    assert found == [[-0.5, -0.5]] * 3 + [[6.0, -0.5]] * 2


def test_an_interval_has_a_value_outside():
    after = emag.Interval(4.0, low=0.0, high=0.5, unit="progress", outside=0.0)
    model = emag.guided(lambda x, t, c: c + 0 * x, emag.CFG(after), path=PATHS["flow"],
                        conditions={COND: 1.0, UNCOND: -1.0})
    start = torch.zeros(1, 1, 2, 2)
    # u + 4 (c - u) = 7 down to the noise 0.3, and u = -1 from there on
    steps = [at_step("flow", "flow", start, index=i, sigmas=(1.0, 0.8, 0.6, 0.3, 0.1)) for i in range(5)]
    halves = sum(after.known(step) == 4 for step in steps)
    fallen = 1.0 - PATHS["flow"].at(halves)[1]
    close(sample(model, start), start - (7 * fallen - (1 - fallen)))


@pytest.mark.parametrize("make", [
    lambda: emag.FBG(5.0, pi=1.0), lambda: emag.FBG(5.0, onset=1.0), lambda: emag.FBG(5.0, answer=-0.1),
    lambda: emag.FBG(5.0, base=0.5), lambda: emag.FBG(2.0, base=3.0), lambda: emag.Transition(3.0, -1.0),
    lambda: emag.Interval(3.0, outside=-1.0)])
def test_odd_values_are_refused(make):
    with pytest.raises(BadValue, match=r"fbg|transition|interval"):
        make()
