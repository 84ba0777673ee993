"""Rescale, dynamic thresholding and CFG-Zero* against their formulas, and the identities that join the combining rules."""

import pytest
import torch

import emag
from emag import CFG
from emag.core import COND, UNCOND, combine, with_null
from emag.errors import BadValue
from emag.maths.predictions import convert
from emag.methods import METHODS as C
from emag.methods.after.dynamic_threshold import quantile
from emag.schedules import Interval
from reference import SPACES, at_step, branches_in, scheduler_steps, tensors
from tiny import CASES

close = torch.testing.assert_close
SHAPES = [(3, 4, 6, 6), (3, 8, 30), (2, 4, 3, 5, 6)]
FLOW = at_step("flow", "flow", x=tensors(99, 1, 3, 4, 6, 6)[0].double())
shapes = pytest.mark.parametrize("shape", SHAPES, ids=["image", "audio", "video"])


def pair(seed=1, shape=SHAPES[0]):
    return dict(zip((COND, UNCOND), (t.double() for t in tensors(seed, 2, *shape))))


def exact(actual, expected):
    close(actual, expected, atol=1e-10, rtol=1e-10)


def dots(a, b):
    return (a * b).flatten(1).sum(1)


def per_row(values, like):
    return values.view(-1, *[1] * (like.ndim - 1))


def guided(rules, p, step=FLOW):
    """What `rules` make of the branches `p`."""
    states = [{} for _ in rules]
    after = with_null(rules, p, step, states)
    return combine(rules, after[COND], after, step, states)


def cfg(p, w):
    return p[UNCOND] + w * (p[COND] - p[UNCOND])


# M04, M05: rescale, on images and on the 1-D latents of EzAudio


@shapes
@pytest.mark.parametrize("phi", [0.3, 0.7, 1.0])
def test_rescale_mixes_the_deviations(shape, phi):
    p = pair(shape=shape)
    plain, out = cfg(p, 5.0), guided((CFG(5.0), C["rescale"](phi)), p)
    for unbiased in (True, False):
        std = [t.flatten(1).std(1, unbiased=unbiased) for t in (out, p[COND], plain)]
        exact(std[0], phi * std[1] + (1 - phi) * std[2])
    exact(out / plain, per_row((out / plain).flatten(1)[:, 0], out).expand_as(out))


@shapes
def test_rescale_changes_nothing_at_phi_0_and_at_scale_1(shape):
    p = pair(shape=shape)
    assert torch.equal(guided((CFG(5.0), C["rescale"](0.0)), p), guided((CFG(5.0),), p))
    exact(guided((CFG(1.0), C["rescale"](0.7)), p), p[COND])


# M06: dynamic thresholding


def thresholded(x0, **settings):
    return guided((C["dynamic-threshold"](**settings),), {COND: x0}, at_step(space="x0", x=x0))


@shapes
def test_threshold_leaves_what_is_in_range(shape):
    x0 = torch.tanh(pair(shape=shape)[COND])
    assert torch.equal(thresholded(x0), x0)
    assert torch.equal(thresholded(x0, percentile=0.1, maximum=5.0), x0)


@shapes
@pytest.mark.parametrize("percentile", [0.0, 0.8, 0.995, 1.0])
def test_threshold_formula_and_range(shape, percentile):
    x0 = 3 * pair(shape=shape)[COND]
    x0[1] /= 10
    for maximum in (None, 2.0):
        out = thresholded(x0, percentile=percentile, maximum=maximum)
        q = torch.quantile(x0.flatten(1).abs(), percentile, dim=1).clamp(1, maximum)
        exact(out, (x0.clamp(-per_row(q, x0), per_row(q, x0)) / per_row(q, x0)))
        assert out.abs().max() <= 1
    assert torch.equal(thresholded(x0, percentile=percentile, maximum=1.0), x0.clamp(-1, 1))


@pytest.mark.parametrize("share", [0.0, 0.37, 0.995, 1.0])
@pytest.mark.parametrize("n", [1, 2, 37])
def test_quantile_is_the_usual_one(share, n):
    values = tensors(4, 1, 5, n)[0].double()
    exact(quantile(values, share), torch.quantile(values, share, dim=1))


def test_threshold_acts_on_the_guided_clean_sample():
    p = {name: 2 * t for name, t in pair().items()}
    for path, spaces in SPACES.items():
        for space in spaces:
            step = at_step(path, space, x=FLOW.x)
            out = guided((CFG(4.0), C["dynamic-threshold"](0.9)), branches_in(space, step, "x0", p), step)
            x0 = convert(out, step.x, step.alpha, step.sigma, space, "x0")
            exact(x0, thresholded(cfg(p, 4.0), percentile=0.9))


# M15: CFG-Zero*


def star(p, w, step=FLOW):
    return guided((C["zero-star"](), CFG(w)), p, step)


@shapes
def test_zero_star_leaves_what_is_orthogonal_to_u(shape):
    p = pair(shape=shape)
    null = with_null((C["zero-star"](),), p, at_step("flow", "flow", x=p[COND]), [{}])[UNCOND]
    exact(dots(p[COND] - null, p[UNCOND]), torch.zeros(len(null), dtype=torch.float64))
    exact(null, per_row(dots(p[COND], p[UNCOND]) / dots(p[UNCOND], p[UNCOND]), null) * p[UNCOND])


@pytest.mark.parametrize("w", [0.0, 1.0, 3.0, 12.0])
def test_zero_star_on_parallel_branches_is_the_conditional(w):
    p = pair()
    p[COND] = per_row(torch.tensor([2.0, -0.5, 0.0]), p[UNCOND]) * p[UNCOND]
    exact(star(p, w), p[COND])


def test_zero_star_forms_and_invariance():
    p = pair()
    k = per_row(dots(p[COND], p[UNCOND]) / dots(p[UNCOND], p[UNCOND]), p[COND])
    exact(star(p, 5.0), k * p[UNCOND] + 5.0 * (p[COND] - k * p[UNCOND]))
    exact(star(p, 5.0), p[COND] + 4.0 * (p[COND] - k * p[UNCOND]))
    exact(star({**p, UNCOND: -7.0 * p[UNCOND]}, 5.0), star(p, 5.0))


def test_zero_star_is_cfg_where_the_difference_is_orthogonal_to_u_and_only_there():
    p = pair()
    assert not torch.allclose(star(p, 3.0), cfg(p, 3.0), atol=1e-2)
    shift = p[COND] - per_row(dots(p[COND], p[UNCOND]) / dots(p[UNCOND], p[UNCOND]), p[COND]) * p[UNCOND]
    p[COND] = p[UNCOND] + shift
    exact(star(p, 3.0), cfg(p, 3.0))


def test_zero_star_works_on_velocities():
    """On a flow path any network gives the same; on a VP path it is not its own output that is projected."""
    p = pair()
    for space in SPACES["flow"]:
        step = at_step("flow", space, x=FLOW.x)
        out = star(branches_in(space, step, "flow", p), 4.0, step)
        exact(convert(out, step.x, step.alpha, step.sigma, space, "flow"), star(p, 4.0))


def test_any_combiner_sees_the_new_u():
    p = pair()
    null = with_null((C["zero-star"](),), p, FLOW, [{}])
    for rule in (emag.APG(4.0, 0.3, 2.0, 0.0), C["fdg"]((4.0, 2.0)), C["fa-cfg"](4.0, 2.0)):
        exact(guided((C["zero-star"](), rule), p), guided((rule,), null))
        assert not torch.allclose(guided((C["zero-star"](), rule), p), guided((rule,), p), atol=1e-2)


@pytest.mark.parametrize("case", ["sd3", "true-cfg"])
def test_the_hosts_own_cfg_sees_the_new_u(case):
    made = []
    for rules in ((C["zero-star"](),), (C["zero-star"](), CFG(4.0)), (CFG(4.0),)):
        pipe = CASES[case].pipe()
        with emag.guide(pipe, *rules):
            made.append(CASES[case].run(pipe))
    close(made[0], made[1], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(made[0], made[2], atol=1e-1)


@pytest.mark.parametrize(("settings", "count", "zeroed"), [
    ({}, 50, 2), ({}, 40, 1), ({}, 28, 1), ({}, 8, 1), ({"share": 0.29}, 100, 29), ({"share": 1.0}, 8, 8),
    ({"steps": 1}, 50, 1), ({"steps": 3, "share": 0.5}, 50, 3), ({"steps": 9}, 8, 8)])
def test_zero_init_counts(settings, count, zeroed):
    rule, p = C["zero-init"](**settings), pair()
    out = [guided((CFG(3.0), rule), p, at_step("flow", "flow", x=FLOW.x, index=i, sigmas=(0.65,) * count,
                                               alphas=(0.35,) * count)) for i in range(count)]
    assert [bool((o == 0).all()) for o in out] == [True] * zeroed + [False] * (count - zeroed)
    assert all(torch.equal(o, guided((CFG(3.0),), p)) for o in out[zeroed:])


@pytest.mark.parametrize("settings", [{"steps": 0}, {"share": 0.0}])
def test_zero_init_can_be_off(settings):
    assert C["zero-init"](**settings).neutral and not C["zero-init"]().neutral


@pytest.mark.parametrize("case", ["sd3", "true-cfg", "flux"])
def test_a_zeroed_euler_step_leaves_x(case):
    """On a guidance-distilled network there is nothing to combine, and zero-init works alone."""
    pipe = CASES[case].pipe()
    before = () if case == "flux" else (CFG(4.0),)
    with emag.guide(pipe, *before, C["zero-init"](2)), scheduler_steps(pipe) as steps:
        CASES[case].run(pipe)
    for i, step in enumerate(steps):
        assert bool((step.prediction == 0).all()) == (i < 2)
        assert torch.equal(step.after, step.x) == (i < 2)


# G3: identities between the rules


APG_FREE = emag.APG(4.0, eta=1.0, norm_threshold=0.0, momentum=0.0)


@pytest.mark.parametrize("rule", [APG_FREE, C["fdg"]((4.0, 4.0, 4.0)), C["fa-cfg"](4.0, 4.0, 0.5), C["fdg"]((4.0,))],
                         ids=lambda rule: rule.name)
def test_with_their_parts_equal_all_are_cfg(rule):
    for path, spaces in SPACES.items():
        for space in spaces:
            step = at_step(path, space, x=FLOW.x)
            exact(guided((rule,), pair(), step), cfg(pair(), 4.0))


@pytest.mark.parametrize("w", [0.0, 0.5, 2.0, 9.0])
def test_tcfg_and_zero_star_on_parallel_branches(w):
    p = pair()
    p[UNCOND] = per_row(torch.tensor([2.0, -0.5, 0.1]), p[COND]) * p[COND]
    exact(guided((C["tcfg"](), CFG(w)), p), cfg(p, w))
    exact(guided((C["zero-star"](), CFG(w)), p), p[COND])


@pytest.mark.parametrize("make", [
    CFG, lambda w: emag.APG(w, 0.3, 2.0, 0.0), lambda w: C["fdg"]((w, w), (0.3,)), lambda w: C["fa-cfg"](w, w)],
    ids=["cfg", "apg", "fdg", "fa-cfg"])
@pytest.mark.parametrize("y", [-1.0, 0.5, 3.0])
def test_additive_form(make, y):
    """p + y G with y = w - 1, where p + G is what the rule makes at scale 2."""
    p = pair()
    push = guided((make(2.0),), p) - p[COND]
    exact(guided((make(1 + y),), p), p[COND] + y * push)


def test_scale_1_spares_the_unconditional_evaluation():
    off = Interval(9.0, 0.9, 1.0, "progress")
    for rule in (C["fdg"]((1.0, off)), C["fa-cfg"](off, 1.0), C["s-cfg"](off, (1,))):
        assert not rule.reads_null(FLOW)
        assert torch.equal(guided((rule,), {COND: FLOW.x}), FLOW.x)
    assert C["fdg"]((1.0, 2.0)).reads_null(FLOW) and C["fa-cfg"](1.0, 2.0).reads_null(FLOW)


@pytest.mark.parametrize("bad", [
    lambda: C["dynamic-threshold"](1.2), lambda: C["dynamic-threshold"](99.5), lambda: C["dynamic-threshold"](-0.1),
    lambda: C["dynamic-threshold"](0.9, 0.5), lambda: C["dynamic-threshold"](0.9, float("inf")),
    lambda: C["dynamic-threshold"](float("nan")), lambda: C["zero-init"](-1), lambda: C["zero-init"](1.5),
    lambda: C["zero-init"](share=1.1), lambda: C["zero-init"](share=float("nan")), lambda: C["fdg"](()),
    lambda: C["fdg"]((3.0, -1.0)), lambda: C["fdg"]((3.0, float("nan"))), lambda: C["fdg"]((3.0, float("inf"))),
    lambda: C["fdg"](("3", 2.0)), lambda: C["fdg"]("3"), lambda: C["fdg"]((3.0, Interval())), lambda: C["fdg"](None),
    lambda: C["fdg"]((3.0, 2.0), (0.1, 0.2, 0.3)), lambda: C["fdg"]((3.0, 2.0), (1.5,)), lambda: C["fdg"]((3.0, 2.0), -0.5),
    lambda: C["fdg"]((3.0, 2.0), (float("nan"),)), lambda: C["fa-cfg"](-1.0), lambda: C["fa-cfg"](2.0, float("nan")),
    lambda: C["fa-cfg"](Interval()), lambda: C["fa-cfg"](None), lambda: C["fa-cfg"](previous=0.0),
    lambda: C["fa-cfg"](previous=1.5), lambda: C["fa-cfg"](size=(3,)),
    lambda: C["fa-cfg"](size=(0, 3)), lambda: C["fa-cfg"](size=(2.5, 3)),
    lambda: C["s-cfg"](-1.0), lambda: C["s-cfg"](2.0, layers=()), lambda: C["s-cfg"](2.0, layers=3),
    lambda: C["s-cfg"](2.0, low=2.0, high=1.0), lambda: C["s-cfg"](2.0, low=-1.0), lambda: C["s-cfg"](2.0, limit=0.0),
    lambda: C["s-cfg"](2.0, high=float("nan")), lambda: C["s-cfg"](2.0, limit=float("inf"))])
def test_bad_values(bad):
    with pytest.raises(BadValue):
        bad()
