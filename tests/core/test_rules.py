"""CFG, APG and CADS against their formulas."""

from dataclasses import replace

import pytest
import torch

import emag
from emag.core import COND, UNCOND, combine
from emag.errors import BadValue
from emag.maths.streams import Streams
from emag.maths.vectors import capped, project
from emag.methods.condition.cads import ramp
from reference import EVERY, at_step, branches_in, pair, rule, scheduler_steps, tensors
from tiny import CASES, dit, dit_call, generators, sd3, sd3_call

close = torch.testing.assert_close
X0 = at_step(space="x0")
FREE = {"norm_threshold": 0.0, "momentum": 0.0}


def dots(a, b):
    return (a.double() * b.double()).flatten(1).sum(1)


def norms(a):
    return a.double().flatten(1).norm(dim=1)


def apg(p, scale=4.0, state=None, step=X0, **settings):
    made = emag.APG(scale, **{**FREE, **settings})
    return combine((made,), p[COND], p, step, [{} if state is None else state])


# CFG


def test_cfg_end_points_are_exact():
    for seed in range(5):
        p = pair(seed)
        assert torch.equal(emag.CFG(1.0).apply(p[COND], p, X0, {}), p[COND])
        assert torch.equal(emag.CFG(0.0).apply(p[COND], p, X0, {}), p[UNCOND])


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 1.5, 7.0])
def test_cfg_forms(scale):
    p = pair()
    out = emag.CFG(scale).apply(p[COND], p, X0, {})
    close(out, p[UNCOND] + scale * (p[COND] - p[UNCOND]), atol=1e-5, rtol=1e-5)
    close(out, p[COND] + (scale - 1) * (p[COND] - p[UNCOND]), atol=1e-5, rtol=1e-5)
    same = {COND: p[COND], UNCOND: p[COND].clone()}
    assert torch.equal(emag.CFG(scale).apply(p[COND], same, X0, {}), p[COND])


def test_cfg_channels():
    p = pair()
    out, full = (emag.CFG(4.0, channels=c).apply(p[COND], p, X0, {}) for c in (3, None))
    assert torch.equal(out[:, :3], full[:, :3]) and torch.equal(out[:, 3:], p[COND][:, 3:])


@pytest.mark.parametrize("bad", [
    lambda: emag.CFG(-1.0), lambda: emag.CFG(2.0, channels=0), lambda: emag.APG(-1.0), lambda: emag.APG(2.0, momentum=1.0),
    lambda: emag.APG(2.0, momentum=-1.0), lambda: emag.APG(2.0, norm_threshold=-1.0), lambda: emag.CADS(-0.1),
    lambda: emag.CADS(0.1, tau1=0.9, tau2=0.5), lambda: emag.CADS(0.1, psi=1.5), lambda: emag.CFG(float("nan")),
    lambda: emag.APG(float("nan")), lambda: emag.CADS(float("nan")), lambda: emag.EMAG(float("nan")),
    lambda: emag.CFG(float("inf")), lambda: emag.APG(float("inf")), lambda: emag.CADS(float("inf")),
    lambda: emag.EMAG(-0.5), lambda: emag.EMAG(2.0, beta=1.5), lambda: emag.EMAG(2.0, strength=-0.1),
    lambda: emag.EMAG(2.0, jitter=-1), lambda: emag.EMAG(2.0, variant="maps"), lambda: emag.EMAG(2.0, layers=()),
    lambda: emag.EMAG(2.0, statistic="mean"), lambda: emag.EMAG(2.0, variant="map", statistic="logits"),
    lambda: emag.EMAG(2.0, beta_time="fast"), lambda: emag.EMAG(2.0, compat="sd3")])
def test_bad_values(bad):
    with pytest.raises(BadValue):
        bad()


# APG


@pytest.mark.parametrize(("path", "space"), [("vp", "epsilon"), ("vp", "v"), ("vp", "x0"), ("flow", "flow")])
def test_apg_without_its_parts_is_cfg(path, space):
    step = at_step(path, space)
    p = branches_in(space, step, "x0", pair())
    close(apg(p, eta=1.0, step=step), emag.CFG(4.0).apply(p[COND], p, step, {}), atol=2e-5, rtol=2e-5)


def test_apg_step_is_orthogonal_to_the_conditional():
    p = pair()
    moved = apg(p, eta=0.0, norm_threshold=3.0) - p[COND]
    assert (dots(moved, p[COND]).abs() < 1e-5 * norms(moved) * norms(p[COND])).all()
    assert (norms(moved) > 1).all()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("scale", [0.0, 2.0, 12.0])
def test_apg_step_is_bounded(eta, scale):
    p = pair()
    assert (norms(apg(p, scale, eta=eta, norm_threshold=2.5) - p[COND]) <= abs(scale - 1) * 2.5 * (1 + 1e-5)).all()


def test_apg_scale_1_is_the_conditional_and_scaling_is_linear():
    p = pair()
    assert torch.equal(apg(p, 1.0), p[COND])
    close(apg({name: 3 * value for name, value in p.items()}, eta=0.2), 3 * apg(p, eta=0.2), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("momentum", [-0.5, 0.7])
def test_apg_momentum_is_a_running_sum_taken_before_the_cap(momentum):
    state, total = {}, 0.0
    for seed in range(6):
        p = pair(seed)
        total = (p[COND] - p[UNCOND]).double() + momentum * total
        capped_sum = total * (2.0 / norms(total)).clamp(max=1).view(-1, 1, 1, 1)
        parallel = (dots(capped_sum, p[COND]) / norms(p[COND]) ** 2).view(-1, 1, 1, 1) * p[COND].double()
        expected = p[COND] + 3.0 * (capped_sum - parallel + 0.25 * parallel)
        step = at_step(space="x0", index=seed, sigmas=(0.5,) * 6, alphas=(0.5,) * 6)
        close(apg(p, eta=0.25, norm_threshold=2.0, momentum=momentum, step=step, state=state), expected.float())


def test_apg_norms_are_per_sample():
    p = pair()
    p[UNCOND][1] = p[COND][1] + 100 * (p[UNCOND][1] - p[COND][1])
    for row in range(2):
        alone = {name: value[row:row + 1] for name, value in p.items()}
        step = at_step(space="x0", x=X0.x[row:row + 1])
        close(apg(p, norm_threshold=5.0)[row:row + 1], apg(alone, norm_threshold=5.0, step=step))


def test_apg_cap_leaves_short_vectors():
    short, long = torch.full((1, 4), 0.5), torch.full((1, 4), 5.0)
    assert torch.equal(capped(torch.cat([short, long]), 2.0), torch.cat([short, long / 5]))
    assert torch.equal(capped(long, 0.0), long)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_apg_degenerate_inputs_stay_finite(dtype):
    zero, some = torch.zeros(2, 4, 6, 6, dtype=dtype), tensors(3, 1)[0].to(dtype)
    for cond, uncond in ((zero, zero), (zero, some), (some, zero), (some, some)):
        out = emag.APG(4.0, norm_threshold=5.0, momentum=-0.5).apply(cond, {COND: cond, UNCOND: uncond}, X0, {})
        assert out.dtype == dtype and out.isfinite().all()
        for part in (capped(cond - uncond, 5.0), *project(cond - uncond, cond)):
            assert part.isfinite().all()
    same = {COND: some, UNCOND: some}
    assert torch.equal(emag.APG(4.0, norm_threshold=5.0, momentum=0.0).apply(some, same, X0, {}), some)


def test_apg_takes_the_running_prediction_for_the_conditional():
    rule = emag.EMAG(2.5, layers=(1,), window=emag.Window.progress(0, 0.1, 1))
    p = {**pair(), rule.perturbation: tensors(7, 1)[0]}
    weak = p[rule.perturbation]
    pushed = weak + 2.5 * (p[COND] - weak)
    expected = apg({COND: pushed, UNCOND: p[UNCOND]}, eta=0.2, norm_threshold=3.0)
    rules = (rule, emag.APG(4.0, eta=0.2, norm_threshold=3.0, momentum=0.0))
    close(combine(rules, p[COND], p, X0, [{}, {}]), expected, atol=1e-5, rtol=1e-5)


# CADS

CADS = emag.CADS(0.3, tau1=0.2, tau2=0.8, psi=0.7)


def noised(cads=CADS, time=0.5, y=None, latents=0, **more):
    y = tensors(11, 1, 2, 5, 12)[0] * 2 + 1 if y is None else y
    step = at_step(time=time, streams=Streams.of(tensors(latents, 1, len(y), 4, 8, 8)[0]), **more)
    return y, cads.condition({"text": y}, step)["text"]


@pytest.mark.parametrize(("t", "gamma"), [(0, 1), (0.2, 1), (0.35, 0.75), (0.5, 0.5), (0.65, 0.25), (0.8, 0), (1, 0)])
def test_cads_ramp(t, gamma):
    assert ramp(t, 0.2, 0.8) == pytest.approx(gamma)
    assert ramp(t, 0.5, 0.5) == (1 if t <= 0.5 else 0)


@pytest.mark.parametrize("psi", [0.0, 0.4, 1.0])
def test_cads_below_tau1_is_exact(psi):
    for time in (0.0, 0.1, 0.2):
        y, out = noised(replace(CADS, psi=psi), time)
        assert torch.equal(out, y)


@pytest.mark.parametrize("time", [0.3, 0.5, 0.9])
def test_cads_keeps_mean_and_deviation_per_sample(time):
    size, shift = torch.tensor([[0.5, 2.0, 9.0], [0.0, 4.0, -7.0]]).view(2, 3, 1, 1)
    y = tensors(11, 1, 3, 5, 12)[0] * size + shift
    _, out = noised(replace(CADS, psi=1.0), time, y)
    close(out.mean((1, 2)), y.mean((1, 2)), atol=1e-4, rtol=1e-4)
    close(out.std((1, 2)), y.std((1, 2)), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(out, y, atol=0.05)


def test_cads_formula():
    y, plain = noised(replace(CADS, psi=0.0))
    noise = (plain - 0.5**0.5 * y) / (0.3 * 0.5**0.5)
    assert abs(noise.mean()) < 0.4 and abs(noise.std() - 1) < 0.3
    mean, std = ((lambda t: t.mean((1, 2), keepdim=True)), (lambda t: t.std((1, 2), keepdim=True)))
    rescaled = (plain - mean(plain)) / std(plain) * std(y) + mean(y)
    close(noised()[1], 0.7 * rescaled + 0.3 * plain)


@pytest.mark.parametrize("time", [0.3, 0.6, 1.0])
def test_cads_without_noise_shrinks_the_condition(time):
    y, out = noised(replace(CADS, scale=0.0, psi=0.0), time)
    close(out, ramp(time, 0.2, 0.8) ** 0.5 * y)


def test_cads_noise_follows_the_sample_and_not_its_batch():
    y, both = noised(y=tensors(11, 1, 2, 5, 12)[0])
    latents = tensors(0, 1, 2, 4, 8, 8)[0]
    swapped = at_step(time=0.5, streams=Streams.of(latents.flip(0)))
    close(CADS.condition({"text": y.flip(0)}, swapped)["text"].flip(0), both, atol=0, rtol=0)
    for row in range(2):
        step = at_step(time=0.5, streams=Streams.of(latents[row:row + 1]))
        close(CADS.condition({"text": y[row:row + 1]}, step)["text"], both[row:row + 1], atol=0, rtol=0)


def test_cads_noise_is_reproducible_and_differs_between_samples_steps_and_names():
    y = torch.zeros(2, 5, 12)
    wild = emag.CADS(1.0, tau1=0.0, tau2=0.1, psi=0.0)
    _, once = noised(wild, y=y)
    assert torch.equal(noised(wild, y=y)[1], once)
    assert not torch.allclose(once[0], once[1]) and not torch.allclose(noised(wild, y=y, latents=1)[1], once)
    step = at_step(time=0.5, streams=Streams.of(tensors(0, 1, 2, 4, 8, 8)[0]))
    first = wild.condition({"a": y, "b": y}, step)
    assert not torch.allclose(first["a"], first["b"])
    assert torch.equal(wild.condition({"a": y}, step)["a"], first["a"])
    step.streams.next_step()
    assert not torch.allclose(wild.condition({"a": y}, step)["a"], first["a"])


def test_cads_leaves_the_null_condition_alone_unless_asked():
    y, out = noised(branch=UNCOND)
    assert out is y
    y, out = noised(replace(CADS, null=True), branch=UNCOND)
    assert not torch.allclose(out, y, atol=0.05)
    assert not torch.allclose(out, noised(replace(CADS, null=True))[1], atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cads_keeps_the_dtype_and_constant_conditions_finite(dtype):
    _y, out = noised(y=torch.ones(2, 5, 12, dtype=dtype))
    assert out.dtype == dtype and out.isfinite().all()


# at work in a pipeline

SEEN = {"sd3": lambda net: net.context_embedder, "dit": lambda net: net.transformer_blocks[2].norm1.emb.class_embedder}


def conditions(name, *rules, **more):
    """Per network call, the condition of its rows; and the pipeline's result."""
    pipe, case, seen = CASES[name].pipe(), CASES[name], []
    module = SEEN[name](pipe.transformer)
    module.register_forward_hook(lambda _, args, out: seen.append((args[0] if name == "sd3" else out).clone()))
    with emag.guide(pipe, *rules):
        image = case.run(pipe, **more)
    return seen, image


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("null", [False, True])
def test_cads_gives_clean_and_weak_pass_one_condition(name, null):
    cads = emag.CADS(0.5, tau1=0.3, tau2=0.9, psi=0.5, null=null)
    plain, _ = conditions(name)
    seen, _ = conditions(name, cads, rule(CASES[name]))
    clean, weak = [c for c in seen if len(c) == 4], [c for c in seen if len(c) == 2]
    cond, uncond = (slice(2, 4), slice(0, 2)) if name == "sd3" else (slice(0, 2), slice(2, 4))
    assert len(clean) == 8 and len(weak) == 5
    for step, condition in enumerate(weak, start=2):
        assert torch.equal(condition, clean[step][cond])
    changed = [not torch.equal(a[cond], b[cond]) for a, b in zip(clean, plain)]
    assert changed[0] and not changed[-1] and changed == sorted(changed, reverse=True)
    null_changed = [not torch.equal(a[uncond], b[uncond]) for a, b in zip(clean, plain)]
    assert null_changed == (changed if null else [False] * 8)
    assert not torch.allclose(clean[0][cond] - plain[0][cond], clean[1][cond] - plain[1][cond], atol=1e-3)


@pytest.mark.parametrize("name", SEEN)
def test_one_sample_gets_the_same_noise_alone(name):
    cads = emag.CADS(0.5, tau1=0.3, tau2=0.9, psi=0.5)
    both, _ = conditions(name, cads, seeds=(8, 9))
    alone, _ = conditions(name, cads, seeds=(9,))
    last = -1 if name == "sd3" else 1
    for a, b in zip(both, alone):
        close(a[last], b[1 if name == "sd3" else 0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_no_generator_advances_but_as_without_us(name):
    case, left = CASES[name], []
    for rules in ((), (emag.CADS(0.5, tau1=0.3, tau2=0.9, psi=0.5), rule(case, jitter=0.1))):
        torch.manual_seed(3)
        pipe, mine = case.pipe(), generators((8, 9))
        torch.manual_seed(3)
        with emag.guide(pipe, *rules):
            case.run(pipe, generator=mine)
        left.append([torch.get_rng_state(), *(g.get_state() for g in mine)])
    assert all(torch.equal(a, b) for a, b in zip(*left))


@pytest.mark.parametrize(("pipe", "call"), [(sd3, sd3_call), (dit, dit_call)])
def test_state_is_reset_between_runs(pipe, call):
    pipe = pipe()
    rules = (emag.CADS(0.1, tau1=0.6, tau2=0.9, psi=1.0),
             emag.EMAG(2.0, layers=(1, 2), beta=0.9, window=EVERY, jitter=0.1),
             emag.APG(4.0, norm_threshold=2.0, momentum=0.9))
    with emag.guide(pipe, *rules):
        with scheduler_steps(pipe) as first:
            pipe(**call())
        with scheduler_steps(pipe) as second:
            pipe(**call())
    assert len(first) == len(second) == 8
    assert all(torch.equal(a.prediction, b.prediction) for a, b in zip(first, second))


def test_apg_momentum_acts_across_the_steps_of_a_run():
    pipe, made = sd3(), []
    for momentum in (0.0, 0.9):
        with emag.guide(pipe, emag.APG(4.0, norm_threshold=2.0, momentum=momentum)), scheduler_steps(pipe) as steps:
            pipe(**sd3_call())
        made.append(steps)
    assert torch.equal(made[0][0].prediction, made[1][0].prediction)
    assert not torch.allclose(made[0][1].prediction, made[1][1].prediction, atol=1e-3)
