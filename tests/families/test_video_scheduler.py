"""What the scheduler of a video pipeline gets."""

import pytest
import torch
from diffusers import CogVideoXDPMScheduler

import emag
from cases import EMAG
from emag.engine.trajectory import trajectory
from emag.testing.small_video import hunyuan_video, mochi
from video import MORE, STEPS, WEAK, WITH_UNCOND, close, distance, made, traced

# what the scheduler gets


@WITH_UNCOND
@pytest.mark.parametrize("host_scale", [1.5, 4.0])
def test_the_scheduler_gets_exactly_our_cfg(case, host_scale):
    _, steps, given = traced(case, emag.CFG(3.0), **{case.scale: host_scale})
    assert len(given) == STEPS
    for (cond, uncond, _), got in zip(steps, given, strict=True):
        assert torch.equal(got, cond + 2.0 * (cond - uncond))


@WITH_UNCOND
def test_the_host_combines_the_moved_prediction(case):
    _, steps, given = traced(case, EMAG(1.5), **{case.scale: 4.0})
    for (cond, uncond, weak), got in zip(steps, given, strict=True):
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        assert torch.equal(got, uncond + 4.0 * (pred - uncond))
    assert sum(weak is not None for *_, weak in steps) == WEAK


@WITH_UNCOND
def test_cfg_one_is_the_pipeline_without_its_own(case):
    plain = case.run(case.pipe(), **{case.scale: 1.0})
    assert distance(made(case, emag.CFG(1.0))[0], plain) < 2e-4


@WITH_UNCOND
def test_the_scheduler_gets_our_apg(case):
    """APG recomputed here from the network's own answers, on predictions of x0: noise levels, signs and spaces are right."""
    pipe, xs = case.pipe(), []
    pipe.transformer.register_forward_pre_hook(lambda m, args, kwargs: xs.append(kwargs["hidden_states"]), with_kwargs=True)
    run, steps, given = traced(case, emag.APG(3.0, norm_threshold=2.5, momentum=-0.5), pipe=pipe)
    xs = xs if run.host.doubled else xs[::2]
    momentum = 0.0
    for x, t, (cond, uncond, _), got in zip(xs, pipe.scheduler.timesteps.tolist(), steps, given, strict=True):
        alpha, unit, sigma = level(case, pipe, t)
        x0, other = (alpha * x[-2:].double() - unit * p.double() for p in (cond, uncond))
        momentum = x0 - other - 0.5 * momentum
        total, dims = momentum, tuple(range(1, x.ndim))
        capped = total * (2.5 / total.square().sum(dims, keepdim=True).sqrt()).clamp(max=1)
        moved = 2.0 * (capped - (capped * x0).sum(dims, keepdim=True) / (x0 * x0).sum(dims, keepdim=True) * x0)
        expected = cond.double() - moved / unit
        close(got, expected, 1e-3 if sigma > 0.9999 else 1e-4)
        assert not torch.allclose(got, cond, rtol=1e-3)


def level(case, pipe, t):
    """(a, b) of x0 = a x - b p, and the noise level."""
    if "cogvideox" in case.name:
        bar = pipe.scheduler.alphas_cumprod[int(t)].double().item()
        return bar**0.5, (1 - bar)**0.5, (1 - bar)**0.5
    sigma = 1 - t / 1000 if case.name == "mochi" else t / 1000
    return 1.0, -sigma if case.name == "mochi" else sigma, sigma


def test_the_time_of_mochi_runs_backwards():
    pipe = mochi()
    MORE["mochi"].run(pipe)
    path = trajectory(pipe.scheduler)
    assert path.timesteps[0] == 0 and path.sigmas[0] == path.times[0] == 1 and path.end == (1.0, 0.0)
    assert list(path.sigmas) == sorted(path.sigmas, reverse=True) and path.space == "flow"
    for inverted, ours in zip(pipe.scheduler.sigmas.tolist(), path.sigmas):
        assert 1 - inverted == pytest.approx(ours, abs=1e-6)


def test_ltx_rescales_our_result_to_itself():
    """The host's rescale goes by the conditional half, in which our result sits: a factor of 1 up to rounding."""
    case = MORE["ltx"]
    _, steps, given = traced(case, emag.CFG(3.0), guidance_rescale=0.7)
    for (cond, uncond, _), got in zip(steps, given, strict=True):
        close(got, cond + 2.0 * (cond - uncond), 1e-5)


def test_cogvideox_dynamic_cfg_is_ignored_where_we_combine():
    case = MORE["cogvideox"]
    _, steps, given = traced(case, emag.CFG(3.0), use_dynamic_cfg=True)
    for (cond, uncond, _), got in zip(steps, given, strict=True):
        assert torch.equal(got, cond + 2.0 * (cond - uncond))


def test_cogvideox_with_its_other_scheduler():
    case = MORE["cogvideox"]
    pipe = case.pipe()
    pipe.scheduler = CogVideoXDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    _, steps, given = traced(case, EMAG(1.5), emag.CFG(3.0), pipe=pipe)
    for (cond, uncond, weak), got in zip(steps, given, strict=True):
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        close(got, pred + 2.0 * (pred - uncond), 1e-6)


def test_a_distilled_model_needs_no_cfg_and_has_none():
    case = MORE["hunyuan-video"]
    with pytest.raises(emag.BadValue, match="true_cfg_scale"):
        made(case, emag.CFG(3.0))
    pipe = hunyuan_video(guidance=False)
    with emag.guide(pipe, EMAG()) as run:
        MORE["hunyuan-video-cfg"].run(pipe)
    assert run.stats.effect > 0
