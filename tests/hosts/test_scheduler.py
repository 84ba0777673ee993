"""What reaches the scheduler, to the bit."""

import logging

import pytest
import torch

import emag
from cases import EMAG, WITH_UNCOND
from spy import network_outputs, scheduler_steps
from tiny import CASES

# What the scheduler gets


def clean_branches(run, raw, channels):
    """Conditional and unconditional predictions of each step, and the weak one or None, from what the network returned."""
    raw, steps = list(raw), []
    for effect in run.stats.effects:
        answer = raw.pop(0)
        if run.host.layout == "calls":
            weak = raw.pop(0) if effect is not None else None
            steps.append((answer, raw.pop(0) if len(raw) and run.stats.clean > run.stats.steps * run.stats.depth else None,
                          weak))
            continue
        first, second = answer.chunk(2)
        cond, uncond = (second, first) if run.host.layout == "neg-pos" else (first, second)
        steps.append((cond, uncond, raw.pop(0) if effect is not None else None))
    assert raw == []
    return [tuple(None if p is None else p[:, :channels] for p in step) for step in steps]


def channels_of(case):
    return 4 if case.name in ("dit", "pixart", "sigma") else None


def received(case, model_output):
    """Predictions that the scheduler was handed, one per image."""
    model_output = model_output[:, :channels_of(case)]
    if case.name == "dit":
        first, second = model_output.chunk(2)
        assert torch.equal(first, second)
        return first
    return model_output


def traced(case, pipe, *rules, **call):
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        case.run(pipe, **call)
    return run, clean_branches(run, raw, channels_of(case)), [received(case, g) for g in given]


@WITH_UNCOND
@pytest.mark.parametrize("host_scale", [1.5, 4.0, 33.0])
def test_the_scheduler_gets_exactly_our_cfg(case, host_scale):
    _, branches, given = traced(case, case.pipe(), emag.CFG(3.0), **{case.scale: host_scale})
    assert len(given) == 8
    for (cond, uncond, _), got in zip(branches, given, strict=True):
        assert torch.equal(got, cond + 2.0 * (cond - uncond))


@WITH_UNCOND
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_scheduler_gets_exactly_our_cfg_in_half_precision(case, dtype):
    pipe = case.pipe().to(dtype)
    call = {k: v.to(dtype) for k, v in case.call().items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    _, branches, given = traced(case, pipe, EMAG(1.4), emag.CFG(3.0), **call)
    for (cond, uncond, weak), got in zip(branches, given, strict=True):
        assert got.dtype == cond.dtype == dtype and got.isfinite().all()
        cond, uncond = cond.float(), uncond.float()
        pred = cond if weak is None else cond + (1.4 - 1) * (cond - weak.float())
        assert torch.equal(got, (pred + 2.0 * (pred - uncond)).to(dtype))
    assert sum(weak is not None for _, _, weak in branches) > 2


@WITH_UNCOND
def test_our_cfg_equals_the_hosts_own(case):
    pipe = case.pipe()
    own = case.run(pipe, **{case.scale: 3.0})
    with emag.guide(pipe, emag.CFG(3.0)):
        ours = case.run(pipe, **{case.scale: 7.0})
    assert (ours - own).abs().max() < 1e-4 * own.abs().max()


@WITH_UNCOND
def test_without_a_combiner_the_host_combines_the_moved_prediction(case):
    run, branches, given = traced(case, case.pipe(), EMAG(1.5), **{case.scale: 4.0})
    for (cond, uncond, weak), got in zip(branches, given, strict=True):
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        assert torch.equal(got, uncond + 4.0 * (pred - uncond))
    assert sum(weak is not None for _, _, weak in branches) == 6
    assert run.stats.steps == 8


def test_guidance_distilled_models_get_the_moved_prediction():
    case = CASES["flux"]
    _, branches, given = traced(case, case.pipe(), EMAG(1.5))
    for (cond, uncond, weak), got in zip(branches, given, strict=True):
        assert uncond is None
        assert torch.equal(got, cond if weak is None else cond + 0.5 * (cond - weak))


@WITH_UNCOND
def test_weak_rules_work_where_the_host_does_no_cfg(case):
    _, branches, given = traced_without_cfg(case, EMAG(1.5))
    for (cond, weak), got in zip(branches, given, strict=True):
        assert torch.equal(got, cond if weak is None else cond + 0.5 * (cond - weak))


def traced_without_cfg(case, *rules):
    pipe = case.pipe()
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        case.run(pipe, **{case.scale: 1.0})
    raw = [r[:, :channels_of(case)] for r in raw]
    branches = [(raw.pop(0), raw.pop(0) if effect is not None else None) for effect in run.stats.effects]
    assert run.stats.clean == run.stats.steps * run.stats.depth
    return run, branches, [g[:, :channels_of(case)] for g in given]


@WITH_UNCOND
def test_the_scheduler_gets_our_apg(case):
    """APG recomputed here from the network's own answers, on predictions of x0."""
    pipe, xs = case.pipe(), []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda m, args, kwargs: xs.append(kwargs.get("hidden_states", args[0] if args else None)), with_kwargs=True)
    _, branches, given = traced(case, pipe, emag.APG(3.0, norm_threshold=2.5, momentum=-0.5))
    handle.remove()
    xs = xs[::2] if case.name == "true-cfg" else xs
    momentum = 0.0
    for i, ((cond, uncond, _), got) in enumerate(zip(branches, given, strict=True)):
        alpha, sigma = level(pipe, i)
        x = xs[i][:len(cond)].double()
        c, u = (x0(p.double(), x, alpha, sigma) for p in (cond, uncond))
        total = c - u - 0.5 * momentum
        momentum = total
        dims = tuple(range(1, c.ndim))
        norm = total.square().sum(dims, keepdim=True).sqrt()
        capped = total * (2.5 / norm).clamp(max=1)
        parallel = (capped * c).sum(dims, keepdim=True) / (c * c).sum(dims, keepdim=True) * c
        moved = 2.0 * (capped - parallel)
        expected = cond.double() + (-moved / sigma if alpha is None else -moved * alpha / sigma)
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
        assert not torch.allclose(got, cond, rtol=1e-3)


def level(pipe, i):
    """alpha and sigma of step i; alpha None in flow matching."""
    t = pipe.scheduler.timesteps[i].item()
    if "FlowMatch" in type(pipe.scheduler).__name__:
        return None, t / 1000
    bar = pipe.scheduler.alphas_cumprod[int(t)].double().item()
    return bar**0.5, (1 - bar)**0.5


def x0(p, x, alpha, sigma):
    return x - sigma * p if alpha is None else (x - sigma * p) / alpha


@WITH_UNCOND
def test_one_line_says_that_the_hosts_scale_is_ignored(case, caplog):
    pipe = case.pipe()
    with caplog.at_level(logging.WARNING, logger="emag"):
        with emag.guide(pipe, EMAG()):
            case.run(pipe)
        assert caplog.records == []
        with emag.guide(pipe, EMAG(), emag.APG(3.0, norm_threshold=1.0, momentum=0.0)):
            case.run(pipe)
    assert [r.name for r in caplog.records] == ["emag"]
    assert case.scale in caplog.records[0].getMessage() and "ignored" in caplog.records[0].getMessage()
