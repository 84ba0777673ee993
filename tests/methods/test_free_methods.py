"""Methods that cost no evaluation: known values, closed forms and limits. The general laws are in test_properties.py."""

import math

import pytest
import torch
import torch.nn.functional as F

import emag
from emag.core import COND, UNCOND, combine, with_null
from emag.errors import BadValue
from emag.maths.attention import Attention
from emag.maths.cosines import dct, inverse_dct
from emag.maths.predictions import convert
from emag.methods.attention.gag import BoundedSparse, bounded
from emag.methods.attention.taca import LouderText
from emag.methods.weak.pag import uniform
from reference import at_step
from reference import tensors as made_up

close = torch.testing.assert_close


def tensors(seed, count, *shape):
    """`count` random tensors of `shape`, in fp64."""
    return [x.double() for x in made_up(seed, count, *shape)]


def row(*values):
    """One sample [1, len(values), 1, 1]: each value a channel."""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


def step_at(x, index=0, sigmas=(0.9, 0.6, 0.3), path="flow", space="x0"):
    alphas = tuple((1 - s**2) ** 0.5 if path == "vp" else 1 - s for s in sigmas)
    return at_step(path, space, x, index=index, sigmas=sigmas, alphas=alphas, time=sigmas[index])


def guided(rules, cond, uncond, x=None, index=0, states=None, **more):
    """What `rules` make of one step."""
    rules = rules if isinstance(rules, tuple) else (rules,)
    step = step_at(torch.zeros_like(cond) if x is None else x, index, **more)
    states = [{} for _ in rules] if states is None else states
    branches = with_null(rules, {COND: cond, UNCOND: uncond}, step, states)
    return combine(rules, branches[COND], branches, step, states)


def course(rules, preds, uncond=0.0, **more):
    """What `rules` make of a run whose step i predicts preds[i], one number, told in `space`."""
    states = [{} for _ in rules]
    return [float(guided(rules, row(p), row(uncond), index=i, states=states, sigmas=tuple(
        0.95 - 0.9 * k / len(preds) for k in range(len(preds))), **more)) for i, p in enumerate(preds)]


# across x, and along it


def test_tag_stretches_what_is_orthogonal_to_x():
    close(guided(emag.TAG(1.5), row(2, 3), row(0, 0), x=row(1, 0)), row(2, 4.5))


@pytest.mark.parametrize(("adaptive", "wanted"), [(False, 10.0), (True, 10.5)])
def test_c_tag(adaptive, wanted):
    close(guided(emag.CTAG(2.0, 0.5, adaptive), row(3, 4), row(0, 0), x=row(1, 0)), row(6, wanted))
    assert torch.equal(guided(emag.CTAG(2.0, 0.5, adaptive), row(3, 0), row(0, 0), x=row(1, 0)), row(6, 0))  # no tangent


def test_c_tag_without_its_push_is_cfg():
    cond, uncond, x = tensors(1, 3, 2, 3, 4, 4)
    close(guided(emag.CTAG(3.0, 0.0), cond, uncond, x), guided(emag.CFG(3.0), cond, uncond, x))


# temperature


@pytest.mark.parametrize("path", ["flow", "vp"])
@pytest.mark.parametrize("k", [0.5, 2.0])
def test_tsr_samples_a_gaussian_of_that_temperature(path, k):
    """Of N(0, d^2) the exact epsilon is x sigma / (alpha^2 d^2 + sigma^2); of N(0, d^2 / k) it is that with d^2 / k."""
    x, deviation = tensors(3, 1, 2, 4, 4)[0], 1.7
    for index in range(3):
        step = step_at(x, index, path=path, space="epsilon")
        a, s = step.alpha, step.sigma
        exact = [x * s / (a**2 * square + s**2) for square in (deviation**2, deviation**2 / k)]
        made = guided(emag.TSR(k, deviation), exact[0], exact[0], x, index, path=path, space="epsilon")
        close(made, exact[1])


def test_tsr_leaves_pure_noise_and_ends_at_k():
    x, pred = tensors(4, 2, 2, 4, 4)
    assert torch.equal(guided(emag.TSR(0.5), pred, pred, x, sigmas=(1.0,), space="flow"), pred)
    near = guided(emag.TSR(0.5), pred, pred, x, sigmas=(1e-9,), path="vp", space="epsilon")
    close(near, 0.5 * pred, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("path", "space"), [("flow", "flow"), ("vp", "epsilon")])
def test_epsilon_scaling_divides_where_the_path_is_straight(path, space):
    x, pred = tensors(5, 2, 2, 4, 4)
    close(guided(emag.EpsilonScaling(1.25), pred, pred, x, path=path, space=space), pred / 1.25)


# memory


def test_momentum_by_hand():
    rules = (emag.Momentum(0.5, 0.6, start=1.0, stop=0.0),)
    close(course(rules, [1.0, 0.7, 0.6], space="flow"), [1.0, 0.55, 0.46])
    assert course(rules, [0.7] * 4, space="flow") == pytest.approx([0.7] * 4)


def test_momentum_without_memory_is_two_step_adams_bashforth():
    made = course((emag.Momentum(0.5, 0.0, start=1.0, stop=0.0),), [1.0, 0.4, -0.3], space="flow")
    close(made[1:], [1.5 * 0.4 - 0.5 * 1.0, 1.5 * -0.3 - 0.5 * 0.4])


def test_momentum_goes_on_averaging_outside_its_window():
    inside = course((emag.Momentum(0.5, 0.6, start=1.0, stop=0.0),), [1.0, 0.7, 0.6], space="flow")
    late = course((emag.Momentum(0.5, 0.6, start=0.5, stop=0.0),), [1.0, 0.7, 0.6], space="flow")
    assert late[:2] == [1.0, 0.7] and late[2] == inside[2]


OF_GUIDANCE = [(emag.SMCCFG(3.0),), (emag.APG(3.0, 0.3, 0.0, -0.5),), (emag.CovHiS(3.0),), (emag.OEC(), emag.CFG(3.0))]
"""Rules that remember how far the two predictions were apart."""
REMEMBERING = [(emag.Momentum(0.5, start=1.0, stop=0.0),), (emag.SGPrev(2.0, 1.0),), (emag.HiGS(start=1.0, stop=0.0),),
               (emag.LinearAG(pairs=1, until=1.0), emag.CFG(3.0)),
               (emag.CFGCache(every=4, below=1.0, low_range=(0.0, 1.0)), emag.CFG(3.0)), *OF_GUIDANCE]


def first_name(rules):
    return rules[0].name


@pytest.mark.parametrize("rules", REMEMBERING, ids=first_name)
def test_a_level_that_is_evaluated_twice_is_remembered_once(rules):
    """The second evaluation acts with what is there, at another x, and leaves no trace."""
    once, twice = [[{} for _ in rules] for _ in range(2)]
    for index, (seen, null, other) in enumerate(zip(*(tensors(seed, 3, 1, 2, 4, 4) for seed in (6, 7, 8)), strict=True)):
        wanted = guided(rules, seen, null, index=index, states=once)
        for _ in range(2):
            close(guided(rules, seen, null, index=index, states=twice), wanted)
        guided(rules, other, null, index=index, states=twice)


@pytest.mark.parametrize("rules", OF_GUIDANCE, ids=first_name)
def test_a_step_whose_unconditional_evaluation_was_spared_is_not_guided_by_the_past(rules):
    """As under AG, u is c there, for one sample of two; the other goes on, and behind it the past is forgotten."""
    def run(*indices):
        made, states = [], [{} for _ in rules]
        for index in indices:
            cond, null = (tensors(seed, 3, 2, 2, 4, 4)[index] for seed in (6, 7))
            null = torch.cat([cond[:1] if index == 1 else null[:1], null[1:]])
            made.append(guided(rules, cond, null, index=index, states=states))
            if index == 1:
                assert torch.equal(made[-1][0], cond[0]) and not torch.equal(made[-1][1], cond[1])
        return made[-1]

    behind, anew = run(0, 1, 2), run(2)
    if rules[0].kind != "null":  # it is changes that OEC looks at, and the step that was spared is a step before
        close(behind[0], anew[0])
        assert not torch.allclose(behind[1], anew[1])


def test_behind_steps_at_scale_1_apg_starts_anew():
    """Two intervals of guidance, with steps between that evaluate nothing."""
    class Twice(emag.Schedule):
        name = "twice"

        def known(self, step):
            return 1.0 if step.index == 1 else 3.0

    cond, null = (tensors(seed, 3, 2, 2, 4, 4) for seed in (6, 7))
    rule, states = emag.APG(Twice(3.0), 0.3, 0.0, -0.5), [{}]
    made = [guided(rule, c, u, index=i, states=states) for i, (c, u) in enumerate(zip(cond, null, strict=True))]
    assert torch.equal(made[1], cond[1])
    close(made[2], guided(rule, cond[2], null[2], index=2))


def test_sg_prev_acts_late_and_never_first():
    assert course((emag.SGPrev(3.0, 1.0),), [1.0, 0.5, 0.4], space="flow") == pytest.approx([1.0, -1.0, 0.1])
    assert course((emag.SGPrev(3.0, 0.5),), [1.0, 0.5, 0.4], space="flow")[:2] == [1.0, 0.5]


def test_the_cosine_transform_is_orthonormal():
    x = tensors(7, 1, 2, 3, 5, 8)[0]
    close(inverse_dct(dct(x)), x)
    close(dct(x).square().sum(), x.square().sum())
    flat = dct(torch.ones(4, 6, dtype=torch.float64))
    assert flat[0, 0] == pytest.approx(24**0.5) and flat.abs().sum() == pytest.approx(24**0.5)


def test_higs_leaves_what_is_constant_and_what_is_first():
    x0 = tensors(8, 1, 2, 3, 4, 4)[0]
    states = [{}]
    for index in range(3):
        close(guided(emag.HiGS(start=1.0, stop=0.0), x0, x0, index=index, states=states), x0)


def test_higs_with_every_frequency_adds_what_the_average_lacks():
    """cutoff -> all pass: g (1 + w(t) (1 - a)^n), for the average starts at 0."""
    x0, states, a = tensors(9, 1, 2, 3, 4, 4)[0], [{}], 0.75
    rule = emag.HiGS(2.0, a, cutoff=0.0, start=1.0, stop=0.0, eta=1.0)
    sigmas = (0.9, 0.6, 0.3)
    for n, s in enumerate(sigmas):
        made = guided(rule, x0, x0, index=n, states=states, sigmas=sigmas)
        factor = 1 + (0 if n == 0 else 2.0 * s**0.5 * (1 - a) ** n)
        mean = x0.mean((-2, -1), keepdim=True)  # a sigmoid at 0 halves the mean's own coefficient
        close(made, x0 + (factor - 1) * (x0 - 0.5 * mean), rtol=1e-2, atol=1e-2)


# steering the gap


def test_smc_by_hand():
    close(course((emag.SMCCFG(2.0, 0.05, 0.3),), [1.0, 0.7, 0.6], space="flow"), [1.4, 0.8, 0.6])
    close(course((emag.SMCCFG(2.0, 5.0, 0.2),), [1.0] * 3, space="flow"), [1.6] * 3)
    chatter = course((emag.SMCCFG(1.0, 5.0, 0.2),), [0.1] * 4, space="flow")
    close(chatter, [-0.1, 0.3, -0.1, 0.3])
    assert course((emag.SMCCFG(1.0, 5.0, 0.2, soft=True),), [0.1] * 4, space="flow") == [0.0] * 4


def test_smc_without_gain_is_cfg_and_warms_up_with_the_condition_alone():
    cond, uncond = tensors(10, 2, 2, 3, 4, 4)
    close(guided(emag.SMCCFG(3.0, gain=0.0), cond, uncond, space="flow"), guided(emag.CFG(3.0), cond, uncond, space="flow"))
    assert torch.equal(guided(emag.SMCCFG(3.0, warm_up=1), cond, uncond, space="flow"), cond)


def test_oec_by_hand():
    states = [{}]
    guided(emag.OEC(1.0), row(0, 0), row(0, 0), states=states, space="flow")
    step = step_at(row(0, 0), 1, space="flow")
    moved = emag.OEC(1.0).new_null({COND: row(1, 0), UNCOND: row(1, 1)}, step, states[0])
    close(moved, row(2 - math.sqrt(0.5), 1))


# frequencies


def test_fresca_has_a_gain_for_each_band():
    cond, uncond = tensors(11, 2, 1, 4, 8, 8)
    cfg = guided(emag.CFG(3.0), cond, uncond)
    close(guided(emag.FreSca(3.0, 1.0, 1.0, 0.5), cond, uncond), cfg)
    flat = uncond + torch.ones_like(cond)
    close(guided(emag.FreSca(3.0, 0.5, 9.0, 0.5), flat, uncond), guided(emag.CFG(1.5), flat, uncond))
    # the band above: a checkerboard
    board = uncond + torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=cond.dtype).repeat(4, 4)
    close(guided(emag.FreSca(3.0, 0.5, 2.0, 0.5), board, uncond), guided(emag.CFG(6.0), board, uncond))


# bounds


def test_mahiro_of_alike_predictions_is_cfg():
    one = tensors(12, 1, 3, 4, 4, 4)[0].abs()
    close(guided(emag.MaHiRo(3.0), one, 0 * one + one, ), one)
    alike = torch.ones(2, 3, 4, 4, dtype=torch.float64)
    close(guided(emag.MaHiRo(3.0), 2 * alike, alike), guided(emag.CFG(3.0), 2 * alike, alike))


def test_adg_turns_and_does_not_stretch():
    made = guided(emag.ADG(2.0), row(1, 1), row(1, 0))  # 45 degrees apart: another 45, as w - 1 is 1
    close(made, row(math.sqrt(0.5), math.sqrt(0.5)) + row(0, 1))
    cond, uncond = tensors(13, 2, 3, 4, 4, 4)
    far = guided(emag.ADG(9.0), cond, uncond)
    assert (far.flatten(1).norm(dim=1) <= math.sqrt(2) * cond.flatten(1).norm(dim=1) * (1 + 1e-9)).all()
    close(guided(emag.ADG(9.0), cond, cond.clone()), cond)


def test_pmc_stops_at_its_bound_exactly():
    cond, uncond = tensors(14, 2, 3, 4, 4, 4)
    made = guided(emag.PMCCFG(50.0, 1.1), cond, uncond)
    close(made.flatten(1).norm(dim=1), 1.1 * cond.flatten(1).norm(dim=1))
    close(guided(emag.PMCCFG(1.5, 99.0), cond, uncond), guided(emag.CFG(1.5), cond, uncond))


def test_adamag_keeps_what_is_orthogonal_to_the_noise():
    cond, uncond, x = tensors(15, 3, 2, 3, 4, 4)
    cfg = guided(emag.CFG(3.0), cond, uncond, x, space="flow")
    close(guided(emag.AdaMaG(3.0, 1.0, 0.0), cond, uncond, x, space="flow"), cfg)
    step = step_at(x, space="flow")
    noise = convert(cond, x, step.alpha, step.sigma, "flow", "epsilon")
    close(noise, x + (1 - step.sigma) * cond)
    pushed = guided(emag.AdaMaG(3.0, 0.0, 0.0), cond, uncond, x, space="flow") - uncond
    close((pushed * noise).flatten(1).sum(1), torch.zeros(2, dtype=pushed.dtype), atol=1e-9, rtol=0)


def test_tonemap_never_pushes_beyond_its_top():
    cond, uncond = tensors(16, 2, 2, 3, 8, 8)
    close(guided(emag.Tonemap(3.0, 1e9), cond, uncond), guided(emag.CFG(3.0), cond, uncond), rtol=1e-6, atol=1e-6)
    length = (cond - uncond).norm(dim=1).flatten(1)
    top = 0.1 * (length.mean(1) + 5 * length.std(1))
    assert ((guided(emag.Tonemap(1.0, 0.1), cond, uncond) - uncond).norm(dim=1).flatten(1) < top[:, None]).all()


def test_skimmed_by_hand():
    close(guided(emag.SkimmedCFG(8.0, 2.0), row(2), row(1)), row(1 + 8 * 2 / 7))
    held, cfg = (row(0.5), row(1), row(9)), guided(emag.CFG(8.0), row(0.5), row(1))
    close(guided(emag.SkimmedCFG(8.0, 2.0), *held), cfg)  # the step from x goes the other way
    assert not torch.allclose(guided(emag.SkimmedCFG(8.0, 2.0, flip=False), *held), cfg)
    assert torch.equal(guided(emag.SkimmedCFG(1.0), row(2), row(1)), row(2))


@pytest.mark.parametrize("rule", [emag.CFGRenorm(), emag.CFGNorm(), emag.EPCFG()], ids=lambda rule: rule.name)
def test_nothing_is_brought_back_that_has_not_left(rule):
    cond, uncond = tensors(17, 2, 2, 3, 4, 4)
    close(guided((emag.CFG(1.0), rule), cond, uncond), cond)


def test_sizes_are_those_of_the_condition():
    cond, uncond = tensors(18, 2, 2, 3, 4, 4)
    size = lambda x: x.flatten(1).norm(dim=1)  # noqa: E731
    close(size(guided((emag.CFG(9.0), emag.CFGRenorm(0.8)), cond, uncond)), 0.8 * size(cond), rtol=1e-6, atol=1e-6)
    close(size(guided((emag.CFG(9.0), emag.EPCFG(0.0, 1.0)), cond, uncond)), size(cond))
    held = guided((emag.CFG(9.0), emag.CFGNorm()), cond, uncond).norm(dim=1)
    assert (held <= cond.norm(dim=1) * (1 + 1e-9)).all()


# inside the attention, and beside a negative prompt


def attention(text=2, image=3):
    q, k, v = tensors(20, 3, 1, 2, text + image, 4)
    return Attention(q, k, v, slice(text, text + image))


def test_gag_without_a_step_is_the_sparse_map_and_unbounded_pladis():
    dense, shift = tensors(21, 2, 1, 2, 3, 4)
    spec = lambda *more: BoundedSparse((0,), False, *more, 1.5)  # noqa: E731
    close(bounded(dense, shift, spec(0.0, 0.0, 15.0)), dense + shift)
    close(bounded(dense, shift, spec(0.7, 1.0, 1e9)), dense + 1.7 * shift)
    step = bounded(dense, shift, spec(1.0, 0.5, 0.1)) - (dense + shift)
    assert (step.norm(dim=-1) <= 0.1 + 1e-9).all()
    along = bounded(dense, shift, spec(1.0, 0.0, 1e9)) - (dense + shift)
    close(torch.cosine_similarity(along, dense + shift, dim=-1).abs(), torch.ones(1, 2, 3, dtype=torch.float64))


def test_taca_multiplies_the_logits_of_image_and_text():
    call = attention()
    state = LouderText((0,), False, 1.7, 0.5).start((1.0, 0.5), None)
    sdpa = lambda q: F.scaled_dot_product_attention(q, call.k, call.v)  # noqa: E731
    state.begin(0)
    made = state.strengthen(0, call, sdpa, None)
    logits = call.q @ call.k.mT / 2
    logits[:, :, 2:, :2] *= 1.7
    close(made, logits.softmax(-1) @ call.v)
    state.begin(1)
    close(state.strengthen(0, call, sdpa, None), sdpa(call.q))


def test_uniform_attention_is_the_mean_value_and_text_stays():
    call = attention()
    live = F.scaled_dot_product_attention(call.q, call.k, call.v)
    made = uniform(call, live)
    close(made[:, :, 2:], call.v.mean(2, keepdim=True).expand(-1, -1, 3, -1))
    assert torch.equal(made[:, :, :2], live[:, :, :2])


def test_perp_neg_takes_away_only_what_the_prompt_does_not_say():
    rule, step = emag.PerpNeg(3.0, "prompt:x", 0.5), step_at(row(0, 0))
    made = lambda n: rule.apply(row(2, 0), {UNCOND: row(0, 0), COND: row(2, 0), rule.weak[0]: n}, step, {})  # noqa: E731
    close(made(row(5, 0)), row(6, 0))
    close(made(row(5, 4)), row(6, -6))


# scales


def scale_of(schedule, cond=None, uncond=None, index=0, **more):
    step = step_at(torch.zeros(1, 1, 1, 2, dtype=torch.float64), index, **more)
    return schedule.at({COND: cond, UNCOND: uncond}, step, {})


def test_power_law_grows_with_the_gap():
    law = emag.PowerLaw(3.0, 0.9, root_mean_square=False)
    near, far = (float(scale_of(law, row(d, 0), row(0, 0), path="vp", space="epsilon")) for d in (1.0, 2.0))
    assert near == pytest.approx(1 + 2 * (1 / 0.9) ** 0.9)
    assert (far - 1) / (near - 1) == pytest.approx(2**0.9)  # the push itself grows by 2^1.9
    assert float(scale_of(law, row(1, 1), row(1, 1), path="vp", space="epsilon")) == 1


def test_vags_is_its_scale_half_way():
    c, u = row(1, 0), row(1, 0)
    assert float(scale_of(emag.VAGS(3.0), c, u, sigmas=(0.5,), space="flow")) == pytest.approx(3)
    assert float(scale_of(emag.VAGS(3.0), c, u, sigmas=(0.9,), space="flow")) == pytest.approx(3 * math.exp(-0.8))
    assert float(scale_of(emag.VAGS(3.0), c, -u, sigmas=(0.9,), space="flow")) == pytest.approx(3 * math.exp(0.8))


def test_c2fg_grows_from_its_scale():
    assert scale_of(emag.C2FG(2.0, 1.0), sigmas=(1.0, 0.5)) == 2
    assert scale_of(emag.C2FG(2.0, 1.0), index=1, sigmas=(1.0, 0.5)) == pytest.approx(2 * math.exp(0.5))


@pytest.mark.parametrize("sigmas", [(1.0, 0.75, 0.5, 0.25), (1.0, 0.9, 0.5, 0.2, 0.1)])
def test_triangle_has_the_mean_it_was_given(sigmas):
    values = [scale_of(emag.Triangle(4.0), index=i, sigmas=sigmas) for i in range(len(sigmas))]
    falls = [a - b for a, b in zip(sigmas, (*sigmas[1:], 0.0), strict=True)]
    assert sum(v * d for v, d in zip(values, falls, strict=True)) == pytest.approx(4)
    assert max(values) > values[0] and max(values) > values[-1]


@pytest.mark.parametrize("make", [
    lambda: emag.TAG(-1.0), lambda: emag.CTAG(2.0, -1.0), lambda: emag.TSR(0.0), lambda: emag.TSR(1.0, 0.0),
    lambda: emag.EpsilonScaling(0.0), lambda: emag.Momentum(-1.0), lambda: emag.Momentum(0.5, 1.0),
    lambda: emag.Momentum(0.5, start=0.2, stop=0.5), lambda: emag.SGPrev(1.0, 2.0), lambda: emag.HiGS(stop=0.9),
    lambda: emag.CFGRenorm(0.0), lambda: emag.CFGNorm(2.0), lambda: emag.EPCFG(0.6, 0.5), lambda: emag.SMCCFG(2.0, -1.0),
    lambda: emag.FreSca(2.0, -1.0),
    lambda: emag.FreSca(2.0, cutoff=1.0), lambda: emag.ADG(0.5), lambda: emag.ADG(2.0, 0.0), lambda: emag.PMCCFG(2.0, 0.5),
    lambda: emag.AdaMaG(2.0, 2.0), lambda: emag.Tonemap(2.0, 0.0), lambda: emag.SkimmedCFG(2.0, -1.0), lambda: emag.OEC(2.0),
    lambda: emag.PowerLaw(2.0, -1.0), lambda: emag.VAGS(2.0, -1.0)])
def test_values_out_of_range_are_refused(make):
    with pytest.raises(BadValue, match=r"must|needs|at least|is a|lie in"):
        make()
