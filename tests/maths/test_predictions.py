"""The maps between prediction spaces, and what commutes with them."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import emag
from emag.core import COND, combine
from emag.errors import BadValue
from emag.maths.predictions import convert, difference_scale, from_x0, to_x0
from reference import SPACES, at_step, branches_in, pair, space_of, tensors

PAIRS = [(path, a, b) for path in SPACES for a, b in product(SPACES[path], repeat=2)]
level = st.floats(0.02, 0.98)
close = torch.testing.assert_close


def on_path(path, sigma):
    return (1 - sigma**2) ** 0.5 if path == "vp" else 1 - sigma


def truth(path, alpha, sigma):
    """x and every prediction of it, from the definitions."""
    x0, noise = (t.double() for t in tensors(0, 2))
    predictions = {"epsilon": noise, "x0": x0, "v": alpha * noise - sigma * x0, "flow": noise - x0}
    return alpha * x0 + sigma * noise, {space: predictions[space] for space in SPACES[path]}


@given(sigma=level)
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize(("path", "source", "target"), PAIRS)
def test_conversions_follow_the_definitions(path, source, target, sigma):
    alpha = on_path(path, sigma)
    x, true = truth(path, alpha, sigma)
    close(convert(true[source], x, alpha, sigma, source, target), true[target], atol=1e-7, rtol=1e-7)


@given(sigma=level)
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize(("path", "source", "target"), PAIRS)
def test_round_trips_and_differences(path, source, target, sigma):
    alpha = on_path(path, sigma)
    x, p, other = (t.double() for t in tensors(5, 3))
    there = convert(p, x, alpha, sigma, source, target)
    close(convert(there, x, alpha, sigma, target, source), p, atol=1e-7, rtol=1e-7)
    moved = there - convert(other, x, alpha, sigma, source, target)
    close(moved, (p - other) * difference_scale(alpha, sigma, source, target), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize(("path", "source", "target", "scalar"), [
    ("vp", "epsilon", "x0", lambda a, s: -s / a), ("vp", "v", "x0", lambda a, s: -s),
    ("vp", "v", "epsilon", lambda a, s: a), ("flow", "flow", "x0", lambda a, s: -s),
    ("flow", "flow", "epsilon", lambda a, s: 1 - s), ("flow", "x0", "x0", lambda a, s: 1.0)])
def test_difference_scalars(path, source, target, scalar):
    alpha, sigma = space_of(path)
    assert difference_scale(alpha, sigma, source, target) == pytest.approx(scalar(alpha, sigma))


def test_written_out_formulas():
    (a, s), (x, p) = space_of("vp"), tensors(1, 2)
    close(convert(p, x, a, s, "v", "epsilon"), s * x + a * p)
    close(convert(p, x, a, s, "epsilon", "x0"), (x - s * p) / a)
    close(convert(p, x, a, s, "v", "x0"), a * x - s * p)
    a, s = space_of("flow")
    close(convert(p, x, a, s, "flow", "epsilon"), x + (1 - s) * p)
    close(convert(p, x, a, s, "flow", "x0"), x - s * p)


def test_end_points_are_errors_only_where_the_answer_is_undefined():
    x, p = tensors(2, 2)
    close(to_x0(p, x, 0.0, 1.0, "flow"), x - p)
    close(to_x0(p, x, 0.0, 1.0, "v"), -p)
    for undefined in (lambda: to_x0(p, x, 0.0, 1.0, "epsilon"), lambda: from_x0(p, x, 1.0, 0.0, "flow"),
                      lambda: difference_scale(0.0, 1.0, "epsilon", "flow"),
                      lambda: difference_scale(1.0, 0.0, "x0", "epsilon")):
        with pytest.raises(BadValue):
            undefined()


EMAG = emag.EMAG(2.5, layers=(1,), window=emag.Window.progress(0, 0.1, 1))
WEAK = EMAG.perturbation
AFFINE = {"cfg": (emag.CFG(4.0),), "emag": (EMAG,), "emag-cfg": (EMAG, emag.CFG(4.0)), "cfg-emag": (emag.CFG(4.0), EMAG)}
APG = {"apg": (emag.APG(4.0, eta=0.3, norm_threshold=2.0, momentum=-0.5),),
       "emag-apg": (EMAG, emag.APG(4.0, norm_threshold=2.0, momentum=0.4))}


def named():
    return {**pair(), WEAK: tensors(7, 1)[0]}


def results(rules, path, space, calls=1):
    """Guided predictions, as x0, of a network that predicts in `space`."""
    states, out = [{} for _ in rules], []
    for call in range(calls):
        step = at_step(path, space, x=tensors(40 + call, 1)[0])
        there = branches_in(space, step, "x0", {name: p + call for name, p in named().items()})
        guided = combine(rules, there[COND], there, step, states)
        out.append(convert(guided, step.x, step.alpha, step.sigma, space, "x0"))
    return out


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("path", SPACES)
def test_affine_rules_are_the_same_in_every_space(path, name):
    expected, = results(AFFINE[name], path, "x0")
    for space in SPACES[path]:
        close(results(AFFINE[name], path, space)[0], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", APG)
@pytest.mark.parametrize("path", SPACES)
def test_apg_is_the_same_whatever_the_network_predicts(path, name):
    expected = results(APG[name], path, "x0", calls=3)
    for space in SPACES[path]:
        for guided, at in zip(results(APG[name], path, space, calls=3), expected):
            close(guided, at, atol=5e-5, rtol=5e-5)


def test_apg_in_the_networks_own_space_would_differ():
    rule = emag.APG(4.0, norm_threshold=2.0, momentum=0.0)
    step = at_step("flow", "flow")
    p = pair()
    assert not torch.allclose(combine((rule,), p[COND], p, step, [{}]), rule.apply(p[COND], p, step, {}), atol=1e-2)


@pytest.mark.parametrize("rules", [(emag.CFG(1.0),), (emag.APG(1.0, norm_threshold=2.0, momentum=-0.5),), ()])
def test_a_rule_that_changes_nothing_gives_the_prediction_bit_for_bit(rules):
    p = pair()
    assert torch.equal(combine(rules, p[COND], p, at_step("flow", "flow"), [{} for _ in rules]), p[COND])


def test_emag_is_equation_14_and_cfg_after_it_equation_15():
    p, w, g = named(), 2.5, 4.0
    weak, cond, uncond = p[WEAK], p[COND], p["uncond"]
    inner = weak + w * (cond - weak)
    close(combine((EMAG,), cond, p, at_step(), [{}]), inner)
    close(combine(AFFINE["emag-cfg"], cond, p, at_step(), [{}, {}]), uncond + g * (inner - uncond), atol=1e-5, rtol=1e-5)
    pag = uncond + g * (cond - uncond) + (w - 1) * (cond - weak)
    close(combine(AFFINE["cfg-emag"], cond, p, at_step(), [{}, {}]), pag, atol=1e-5, rtol=1e-5)
    close(combine((emag.EMAG(0.0, layers=(1,), window=EMAG.window),), cond, p, at_step(), [{}]), weak)
