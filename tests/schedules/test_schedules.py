"""Schedules against their formulas, and against the methods that they stand for."""

import math
from dataclasses import replace

import pytest
import torch

import emag
from emag.core import COND, UNCOND
from emag.errors import BadValue
from emag.methods.combining.compositional import phase_negative
from emag.schedules import (
    Curve,
    Interval,
    Rectified,
    Waning,
)
from emag.schedules.curves import SHAPES
from reference import tensors
from scheduled import FINE, STEPS, at, branches, close, exact, grid, guided, values
from spy import Counter, attention_of
from tiny import CASES

# limited interval (M07)


def test_the_published_interval_is_the_published_steps():
    """Sigmas of EDM2's 32 Heun steps: (0.19, 1.61] is the index range 17 to 22 of the authors' code."""
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    sigmas = tuple((high + i / 31 * (low - high)) ** 7 for i in range(32))
    steps = [replace(STEPS[0], index=i, sigmas=sigmas, alphas=(1.0,) * 32) for i in range(32)]
    assert [i for i, w in enumerate(values(Interval(2.0), steps)) if w != 1] == list(range(17, 23))


def test_an_interval_excludes_its_low_and_includes_its_high_end():
    steps = [replace(STEPS[0], index=i, sigmas=(0.8, 0.6, 0.4), alphas=(1.0,) * 3) for i in range(3)]
    assert values(Interval(3.0, 0.4, 0.6), steps) == [1.0, 3.0, 1.0]


def test_empty_and_full_intervals():
    p, step = branches(), at()
    assert torch.equal(guided(Interval(4.0, 0.0, 0.0), p, step), p[COND])
    assert torch.equal(guided(Interval(4.0, 0.0, 1e9), p, step), guided(4.0, p, step))


@pytest.mark.parametrize("case", ["sd3", "true-cfg"])
def test_an_interval_evaluates_as_many_rows_as_it_guides(case):
    pipe = CASES[case].pipe()
    counter = Counter(pipe.transformer, attention_of(case))
    with emag.guide(pipe, emag.CFG(Interval(3.0, 0.25, 0.75, "progress"))):
        CASES[case].run(pipe)
    assert set(counter.blocks.values()) == {2 * (8 + 4)}


# weight schedulers (M08)


@pytest.mark.parametrize("convention", ["w", "y"])
@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "power-cosine"])
def test_curves_keep_the_mean(shape, falling, convention):
    found = values(Curve(5.0, shape, falling, convention=convention))
    assert sum(found) / FINE == pytest.approx(5.0, abs=5e-3)
    assert max(found) - min(found) == pytest.approx(10.0 if convention == "w" else 8.0, abs=1e-2)


FORMULAS = {
    ("linear", False): lambda tau: 10 * tau, ("linear", True): lambda tau: 10 * (1 - tau),
    ("cosine", False): lambda tau: 5 * (1 - math.cos(math.pi * tau)),
    ("sine", False): lambda tau: 5 * (1 + math.cos(math.pi * tau)),
    ("cosine", True): lambda tau: 5 * (1 + math.cos(math.pi * tau)),
    ("lambda", False): lambda tau: 20 * min(tau, 1 - tau), ("v", False): lambda tau: 10 - 20 * min(tau, 1 - tau)}


@pytest.mark.parametrize(("shape", "falling"), FORMULAS)
def test_curves_are_the_papers(shape, falling):
    steps = grid(11)
    expected = [FORMULAS[shape, falling](i / 10) for i in range(11)]
    assert values(Curve(5.0, shape, falling, convention="w"), steps) == pytest.approx(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_two_conventions_are_one_curve(shape):
    """y-form: w = 1 + y, with y shaped as w is in the w-form."""
    shaped = values(Curve(3.0, shape, convention="w"))
    assert values(Curve(4.0, shape)) == pytest.approx([1 + y for y in shaped])
    assert values(Curve(1.0, shape)) == [1.0] * FINE


@pytest.mark.parametrize("power", [0.01, 1, 4])
def test_the_power_cosine(power):
    found = values(Curve(6.0, "power-cosine", power=power, convention="w"))
    assert found[0] == 0 and found[-1] == pytest.approx(6.0)
    assert found == sorted(found)
    mean = {1: 0.5, 4: 0.178}
    if power in mean:
        assert sum(found) / FINE / 6 == pytest.approx(mean[power], abs=2e-3)


def test_mdt_is_the_power_cosine_over_1():
    found, steps = values(Curve(3.8, "power-cosine"), grid(51)), 50
    assert found[0] == 1 and found[-1] == pytest.approx(3.8)
    assert found == pytest.approx([1 + 2.8 * (1 - math.cos(math.pi * (i / steps) ** 4)) / 2 for i in range(51)])


def test_a_floor_clamps():
    free = values(Curve(2.0, "linear", convention="w"))
    assert values(Curve(2.0, "linear", convention="w", floor=1.5)) == [max(1.5, w) for w in free]
    assert values(Curve(2.0, "linear", convention="w", floor=4.0)) == [4.0] * FINE


def test_one_step_is_the_start():
    assert values(Curve(5.0, "linear", convention="w"), grid(1)) == [0.0]
    assert all(math.isfinite(w) for shape in SHAPES for w in values(Curve(5.0, shape), grid(1)))


# Rectified-CFG++ as a scale (M03b)


def test_rectified_is_its_formula_and_its_limits():
    steps = grid(11)
    found = values(Rectified(4.5, 1.5), steps)
    assert found == pytest.approx([1 + 3.5 * (i / 11) ** 1.5 for i in range(11)])
    assert values(Rectified(4.5, 0.0), steps) == [4.5] * 11
    assert values(Rectified(1.0, 1.5), steps) == [1.0] * 11


def test_rectified_on_constant_velocities_is_the_predictor_corrector():
    """Half a step along c, then c + lambda (1 - t)^g (c - u) with both taken there."""
    (cond, uncond), lam, power = (t.double() for t in tensors(5, 2)), 3.5, 1.5
    x = other = tensors(6, 1)[0].double()
    for step in grid(7):
        (_, s), (_, after) = (step.alpha, step.sigma), step.next
        p = {COND: cond, UNCOND: uncond}
        x = x + (after - s) * guided(Rectified(1 + lam, power), p, replace(step, x=x))
        other = other + (after - s) * (cond + lam * (1 - s) ** power * (cond - uncond))
    close(x, other, **exact)
    alone = tensors(6, 1)[0].double() - cond
    assert not torch.allclose(x, alone)


# EchoMimicV3's decay


def test_waning_is_its_formula_from_w_down_to_half_of_it():
    """w / 2 + w / 4 (1 - cos(pi left^5)) at whatever number of steps; a smaller power falls later."""
    for count in (1, 10, 28):
        found = values(Waning(4.0), grid(count))
        assert found == [2 - math.cos(math.pi * ((count - i) / count) ** 5) + 1 for i in range(count)] and found[0] == 4.0
        assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(2.0, abs=1e-9)
    assert all(later > early for early, later in zip(found[1:], values(Waning(4.0, power=1.0), grid(28))[1:]))


def test_the_last_share_is_conditional_and_spares_its_evaluations():
    assert values(Waning(4.0, skip=0.2), grid(10)) == [*values(Waning(4.0), grid(10))[:8], 1.0, 1.0]
    assert values(Waning(4.0, skip=1.0), grid(3)) == [1.0] * 3
    _, mix = phase_negative("prompt:a", Waning(4.0, skip=0.5), Waning(3.0, skip=0.5))
    assert [len(mix.branches(step)) for step in grid(4)] == [1, 1, 0, 0]
    assert [mix.reads_null(step) for step in grid(4)] == [True, True, False, False]
    for wrong in ({"power": 0.0}, {"power": math.inf}, {"skip": 1.1}, {"skip": -0.1}):
        with pytest.raises(BadValue):
            Waning(4.0, **wrong)
