"""Video networks and their pipelines: the laws of images, on latents with frames, packed or with the frames first."""

from collections import Counter as Tally
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import CogVideoXDPMScheduler, LTXPipeline, UniPCMultistepScheduler

import emag
from cases import EMAG
from emag.engine import each_sample
from emag.engine.network import read_network
from emag.engine.trajectory import trajectory
from emag.hosts.given import encode_condition
from emag.hosts.lookup import host_of
from emag.lab.forecast import forecast
from emag.maths.layout import pack, planes, unpack
from emag.maths.masks import evaluate_mask
from emag.methods import METHODS
from emag.methods.combining.compose import Compose, Term
from emag.methods.emag.compat import Compat
from emag.methods.weak.seg import SmoothedState
from emag.testing.small_video import MORE as SMALL
from emag.testing.small_video import cogvideox, hunyuan_video, mochi, texts, wan
from reference import at_step, tensors
from spy import attribute, changes, network_outputs, scheduler_steps, snapshot

LAYERS, STEPS, WEAK = (1, 2), 5, 4
MORE = {name: replace(case, call=partial(case.call, num_inference_steps=STEPS)) for name, case in SMALL.items()}
ALL = pytest.mark.parametrize("case", MORE.values(), ids=MORE.keys())
GUIDED = [case for case in MORE.values() if case.uncond]
WITH_UNCOND = pytest.mark.parametrize("case", GUIDED, ids=[case.name for case in GUIDED])
JOINT = [case for name, case in MORE.items() if name not in ("wan", "ltx")]
WIDTH = {"mochi": 16}  # of the text features, 12 elsewhere
NO_VAE = torch.nn.Identity()


def made(case, *rules, seeds=(8, 9), **more):
    pipe = case.pipe()
    with emag.guide(pipe, *rules) as run:
        out = case.run(pipe, seeds, **more)
    return out, run


def whole(pipe):
    """A snapshot of a pipeline without its VAE."""
    vae, vars(pipe)["vae"] = vars(pipe)["vae"], NO_VAE
    try:
        return snapshot(pipe)
    finally:
        vars(pipe)["vae"] = vae


class Counted:
    """Row evaluations of every block, by hooks of its own."""

    def __init__(self, pipe):
        self.rows = Tally()
        for block in read_network(pipe.transformer).blocks:
            block.module.register_forward_hook(self._counting(block.index), with_kwargs=True)

    def _counting(self, index):
        def hook(module, args, kwargs, output):
            self.rows[index] += (kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]).shape[0]
        return hook

    def per_image(self, images):
        return sum(self.rows.values()) / images


def close(a, b, share=2e-4):
    assert (a - b).abs().max() < share * b.abs().max()


def distance(a, b):
    """Largest relative distance of two videos; untrained networks blow up rounding in single pixels."""
    return ((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max()


# nothing, or neutral


@ALL
def test_no_rule_and_neutral_rules_change_no_bit(case):
    plain = case.run(case.pipe())
    for rules in ((), (EMAG(1.0), METHODS["pag"](1.0, LAYERS))):
        assert torch.equal(made(case, *rules)[0], plain)


@ALL
def test_the_clean_pass_is_bit_identical(case):
    """Up to the first weak pass latents agree, so the network's own clean answers must agree bit for bit, all rows."""
    pipe = case.pipe()
    calls = 2 if case.uncond and not host_of(pipe).doubled else 1
    with network_outputs(pipe) as plain:
        case.run(pipe)
    with network_outputs(pipe) as guided, emag.guide(pipe, EMAG(window=emag.Window.index(4, 2, 1))):
        case.run(pipe)
    same = 2 * calls + 1
    assert all(torch.equal(a, b) for a, b in zip(plain[:same], guided[:same]))
    assert len(guided) > len(plain)


@ALL
def test_a_pipeline_is_left_as_it_was(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), whole(pipe)
    with emag.guide(pipe, EMAG()):
        case.run(pipe)
    assert changes(before, whole(pipe), own=False) == []

    class Stop(Exception):
        pass

    def stop(*args):
        raise Stop

    with pytest.raises(Stop), emag.guide(pipe, EMAG()):
        case.run(pipe, callback_on_step_end=stop)
    assert changes(before, whole(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)


# EMAG


@ALL
@pytest.mark.parametrize("variant", ["query", "map"])
def test_emag_acts_and_costs_what_is_planned(case, variant):
    acts_and_costs(case, variant, STEPS * case.depth(case.pipe()))


def acts_and_costs(case, variant, clean):
    """clean: block evaluations of the conditional rows over all steps."""
    pipe = case.pipe()
    plain, counted = case.run(pipe), Counted(pipe)
    with emag.guide(pipe, EMAG(variant=variant)) as run:
        out = case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == counted.per_image(2)
    assert run.stats.clean == clean * (2 if case.uncond else 1)
    assert run.stats.effect > 1e-4 and (out - plain).abs().max() > 1e-3 * plain.abs().max()


@pytest.mark.parametrize(("case", "block"), [pytest.param(case, k, id=f"{case.name}-{k}") for case in MORE.values()
                                             for k in range(4)])
def test_a_resumed_weak_pass_equals_the_full_one(case, block):
    answers, found = [], []
    for resume in (True, False):
        pipe = case.pipe()
        assert read_network(pipe.transformer).depth == 4
        with network_outputs(pipe) as seen, emag.guide(pipe, EMAG(layers=(block,), compat=Compat(resume=resume))) as run:
            case.run(pipe)
        answers.append(seen)
        found.append(run.stats.evaluations)
    for resumed, full in zip(*answers, strict=True):
        close(resumed, full)
    assert found[1] - found[0] == block * sum(effect is not None for effect in run.stats.effects)


@ALL
@pytest.mark.parametrize("rules", [(EMAG(), METHODS["seg"](1.5, LAYERS, 1.0)),
                                   (emag.CADS(0.2, 0.3, 0.9, 0.7), EMAG(variant="map", jitter=0.3))], ids=["query", "map"])
def test_a_video_does_not_depend_on_its_batch_mates(case, rules):
    together, _ = made(case, *rules)
    alone = torch.cat([made(case, *rules, seeds=(seed,))[0] for seed in (8, 9)])
    assert distance(together, alone) < 2e-4


# what the scheduler gets


def traced(case, *rules, pipe=None, **call):
    """A run, [(conditional, unconditional, weak) of each step] and what the scheduler was handed."""
    pipe = pipe or case.pipe()
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        case.run(pipe, **call)
    raw, steps = list(raw), []
    for effect in run.stats.effects:
        answer = raw.pop(0)
        weak = raw.pop(0) if effect is not None else None
        uncond, cond = answer.chunk(2) if run.host.doubled else (raw.pop(0), answer)
        steps.append((cond, uncond, weak))
    assert raw == []
    return run, steps, given


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


# other methods

ACTING = {
    "pag": METHODS["pag"](1.5, LAYERS), "slg": METHODS["slg"](1.5, (2,)), "seg": METHODS["seg"](1.5, LAYERS, 1.0),
    "stg": METHODS["stg"](1.5, (1,), "attention"), "tpg": METHODS["tpg"](1.2, LAYERS), "tsg": METHODS["tsg"](1.5),
    "ag": METHODS["ag"](0.5), "apg": emag.APG(3.0, norm_threshold=2.5, momentum=-0.5), "tcfg": METHODS["tcfg"](),
    "fdg": METHODS["fdg"]((4.0, 3.0)),
}


@ALL
@pytest.mark.parametrize("name", ACTING)
def test_methods_act_as_planned_or_say_why_not(case, name):
    rule, pipe = ACTING[name], case.pipe()
    if not case.uncond and rule.kind in ("combining", "null"):
        with pytest.raises(emag.BadValue, match="uncond"):
            made(case, rule)
        return
    plain = case.run(pipe)
    counted = Counted(pipe)
    with emag.guide(pipe, rule) as run:
        out = case.run(pipe)
    assert out.isfinite().all() and (out - plain).abs().max() > 1e-4 * plain.abs().max()
    assert run.stats.evaluations == counted.per_image(2) <= run.stats.planned
    assert name == "ag" or run.stats.evaluations == run.stats.planned


@ALL
@pytest.mark.parametrize("block", [1, 3])
def test_a_skipped_block_hands_its_streams_on(case, block):
    """The weak answers of SLG are those of a network in which the block returns what it got, in its own order."""
    pipe, seen = case.pipe(), []
    original = pipe.transformer.forward

    def forward(**kwargs):
        seen.append((kwargs, original(**kwargs)[0].clone()))
        return (seen[-1][1],)

    with attribute(pipe.transformer, "forward", forward), emag.guide(pipe, METHODS["slg"](1.5, (block,))) as run:
        case.run(pipe, num_inference_steps=3)
    period = 3 if case.uncond and not run.host.doubled else 2
    read_network(pipe.transformer).blocks[block].module.register_forward_hook(handed_on, with_kwargs=True)
    for kwargs, answer in seen[1::period]:
        close(original(**kwargs)[0], answer)


def handed_on(module, args, kwargs, output):
    given = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.ndim == 3]
    if isinstance(output, torch.Tensor):
        return given[0]
    return tuple(next(x for x in given if x.shape == one.shape) for one in output)


@pytest.mark.parametrize("name", ["wan", "ltx"])
def test_cross_attention_can_be_changed(name):
    case = MORE[name]
    plain = case.run(case.pipe())
    out, run = made(case, METHODS["pladis"](2.0, layers=LAYERS, cross=True))
    assert run.stats.evaluations == STEPS * 8 and (out - plain).abs().max() > 1e-4 * plain.abs().max()


@pytest.mark.parametrize("name", ["ltx", "cogvideox", "mochi"])
def test_another_network_gets_its_arguments_and_is_read_as_the_own_one(name):
    """A second network of the same weights predicts the same, so nothing differs; one of others does."""
    case, pipe = MORE[name], MORE[name].pipe()
    with pytest.raises(emag.NoEffect, match="what the pipeline's own does"):
        with emag.guide(pipe, METHODS["autoguidance"](2.0), models={"guide": case.pipe().transformer}):
            case.run(pipe)
    with emag.guide(pipe, METHODS["autoguidance"](1.2), models={"guide": case.pipe(seed=1).transformer}) as run:
        assert case.run(pipe).isfinite().all() and run.stats.effect > 0


@ALL
def test_sag_is_for_images(case):
    with pytest.raises(emag.Unsupported, match="sag cannot place"):
        made(case, METHODS["sag"](1.5, LAYERS, kernel=3))


@WITH_UNCOND
def test_the_cfg_cache_spares_evaluations(case):
    _, run = made(case, METHODS["cfg-cache"](every=2, below=2.0))
    assert run.stats.evaluations < STEPS * 4 * 2


@pytest.mark.parametrize("case", [case for case in MORE.values() if case.name != "hunyuan-video"],
                         ids=lambda case: case.name)
def test_another_negative_can_be_named(case):
    embeds = {"encoder_hidden_states": texts((5,), 700, 5, WIDTH.get(case.name, 12))}
    if "hunyuan" in case.name:
        embeds["pooled_projections"] = texts((5,), 750, 10)
    pipe = case.pipe()
    with emag.guide(pipe, METHODS["negative"](1.5, "blur"), conditions={"blur": embeds}) as run:
        out = case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == STEPS * 4 * 3 and not torch.equal(out, case.run(pipe))


# sizes and dtypes


@ALL
@pytest.mark.parametrize("more", [{"height": 96, "width": 160, "num_frames": 17}, {"num_frames": 1}],
                         ids=["wide", "one frame"])
def test_other_sizes(case, more):
    if case.name == "cogvideox-1.5" and more["num_frames"] == 1:
        more = {"num_frames": 5}  # its patches are two frames deep
    rules = (EMAG(1.2), METHODS["seg"](1.2, (1,), 1.0))
    out, run = made(case, *rules, seeds=(8,), num_inference_steps=4, **more)
    assert out.isfinite().all() and run.stats.evaluations == run.stats.planned


@ALL
def test_bfloat16_stays_finite(case):
    pipe = case.pipe().to(torch.bfloat16)
    call = {k: v.bfloat16() for k, v in case.call().items() if isinstance(v, torch.Tensor) and v.is_floating_point()
            and "mask" not in k}
    with emag.guide(pipe, EMAG(1.2)) as run:
        out = case.run(pipe, **call)
    assert out.isfinite().all() and run.stats.effect > 0


# where tokens and channels are


@ALL
def test_the_grid_of_tokens_is_the_networks_own(case, monkeypatch):
    """What a branch is told is the grid of the tokens, frames included, whatever the layout of the latents."""
    pipe, grids = case.pipe(), []
    place = SmoothedState.place
    monkeypatch.setattr(SmoothedState, "place", lambda state, grid: (grids.append(grid), place(state, grid)))
    with emag.guide(pipe, METHODS["seg"](1.2, (1,), 1.0)):
        case.run(pipe, (8,), num_inference_steps=2, height=96, width=160, num_frames=17)
    frames, pixels = {"ltx": (3, 32), "cogvideox-1.5": (3, 16), "mochi": (3, 16)}.get(case.name, (5, 16))
    assert grids == [(frames, 96 // pixels, 160 // pixels)]


def test_packed_video_is_that_of_ltx():
    video = tensors(0, 1, 2, 4, 3, 5, 6)[0]
    packed = LTXPipeline._pack_latents(video, 1, 1)
    step = at_step(grid=(3, 5, 6, 1))
    assert torch.equal(unpack(packed, step), video) and torch.equal(pack(video, step), packed)
    assert planes(packed, step).shape == (2, 12, 5, 6)
    with pytest.raises(emag.BadValue, match="3x5x6"):
        unpack(packed[:, 1:], step)


@pytest.mark.parametrize("patch", [1, 2])
def test_packing_a_video_frame_by_frame(patch):
    video = tensors(0, 1, 2, 4, 3, 5 * patch, 6 * patch)[0]
    packed = pack(video, at_step(grid=(3, 5, 6, patch)))
    frames = [pack(video[:, :, i], at_step(grid=(5, 6, patch))) for i in range(3)]
    assert torch.equal(packed, torch.cat(frames, 1))
    assert torch.equal(unpack(packed, at_step(grid=(3, 5, 6, patch))), video)


def test_masks_reach_frames_of_packed_video():
    like, step = torch.ones(1, 4 * 5 * 6, 3), at_step(grid=(4, 5, 6, 1))
    mask = unpack(evaluate_mask("frames:0:0.5", like, step), step)
    assert torch.equal(mask[:, :, :2], torch.ones(1, 3, 2, 5, 6)) and not mask[:, :, 2:].any()


@WITH_UNCOND
def test_a_mask_on_frames_moves_those_alone(case):
    """Guidance in the first half of the frames: there the host's step is CFG, in the others the conditional prediction."""
    rule = Compose("cond", (Term(2.0, "cond", mask="frames:0:0.5"),))
    _, steps, given = traced(case, rule, **FOUR_FRAMES[case.name])
    for (cond, uncond, _), got in zip(steps, given, strict=True):
        moved, still = frames_of(case, cond + 2.0 * (cond - uncond)), frames_of(case, cond)
        got = frames_of(case, got)
        close(got[:2], moved[:2], 1e-5)
        assert torch.equal(got[2:], still[2:]) and not torch.equal(got[:2], still[:2])


FOUR_FRAMES = {name: {"num_frames": {"ltx": 25, "mochi": 19}.get(name, 13)} for name in MORE}


def frames_of(case, x):
    """Predictions with the four frames first."""
    if case.name == "ltx":
        return x.unflatten(1, (4, 9)).transpose(0, 1)
    return x.transpose(0, 1) if "cogvideox" in case.name else x.permute(2, 0, 1, 3, 4)


@pytest.mark.parametrize("case", JOINT, ids=lambda case: case.name)
@pytest.mark.parametrize("variant", ["query", "map"])
def test_text_rows_of_a_replaced_attention_are_untouched(case, variant):
    """The first attention of a weak pass sees the clean streams: its text rows stay as they were, its image rows do not."""
    pipe, store = case.pipe(), []
    block = read_network(pipe.transformer).blocks[1]
    block.attention.register_forward_hook(lambda m, args, out: store.append([o.clone() for o in out]))
    with emag.guide(pipe, EMAG(layers=(1,), variant=variant)) as run:
        case.run(pipe)
    calls = 2 if case.name == "hunyuan-video-cfg" else 1
    at = compared = 0
    for effect in run.stats.effects:
        if effect is not None:
            clean, weak = ([o[-2:] for o in store[at + i]] for i in range(2))
            assert (weak[0] - clean[0]).abs().max() > 1e-6
            close(weak[1], clean[1], 1e-5)
            compared += 1
        at += calls + (effect is not None)
    assert at == len(store) and compared == WEAK


# one call for each sample


def test_samples_of_other_lengths_join_into_one_call():
    """A joined call's output and map are those of each sample alone; its padding gets no attention."""
    lengths, image, width = (9, 7, 6), slice(0, 6), 10
    calls = [dict(zip(("query", "key", "value"), tensors(i, 3, 1, 2, n, 4))) for i, n in enumerate(lengths)]
    call = each_sample.joined(calls, image, width)
    alone = [each_sample.SDPA(*one.values()) for one in calls]
    weights = call.weights(slice(0, 6))
    for i, n in enumerate(lengths):
        assert torch.equal(each_sample.live(call)[i:i + 1, :, :n], alone[i])
        assert torch.equal(each_sample.live(call.rows(slice(i, i + 1)))[:, :, :n], alone[i])
        assert not weights[i, :, :, n:].any()
        torch.testing.assert_close(weights[i] @ call.v[i], alone[i][0, :, :6], atol=1e-6, rtol=1e-5)
    other = replace(call, mask=call.mask.float().log())
    torch.testing.assert_close(each_sample.live(other)[:, :, :6], each_sample.live(call)[:, :, :6])


def test_mochi_without_its_calls_is_named():
    pipe, case = mochi(), MORE["mochi"]

    class Batched:
        def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb=None):
            return hidden_states, encoder_hidden_states

    for block in pipe.transformer.transformer_blocks:
        block.attn1.processor = Batched()
    with pytest.raises(emag.NoEffect, match="Batched made 0 calls"), emag.guide(pipe, EMAG()):
        case.run(pipe)


# further pipelines of the same classes


def test_wan_with_a_timestep_for_every_token():
    """Wan 2.2 TI2V: one expert, timesteps [batch, tokens]."""
    case, pipe = MORE["wan"], wan(expand_timesteps=True)
    plain, counted = case.run(pipe), Counted(pipe)
    with emag.guide(pipe, EMAG(), METHODS["pag"](1.3, LAYERS)) as run:
        out = case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == counted.per_image(2)
    assert not torch.equal(out, plain)


def test_wan_with_the_scheduler_it_is_published_with():
    case, pipe = MORE["wan"], wan()
    pipe.scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    _, steps, given = traced(case, EMAG(1.5), emag.APG(3.0, norm_threshold=2.5, momentum=0.0), pipe=pipe)
    assert all(got.isfinite().all() for got in given) and sum(weak is not None for *_, weak in steps) == WEAK


def test_fused_projections():
    pipe, case = cogvideox(), MORE["cogvideox"]
    expected, _ = made(case, EMAG())
    pipe.transformer.fuse_qkv_projections()
    with emag.guide(pipe, EMAG()):
        assert distance(case.run(pipe), expected) < 1e-3


# prompts


class Encoder:
    """Stands in for a pipeline's text encoder: features that depend on the text."""

    def __init__(self, *shapes):
        self.shapes = shapes

    def __call__(self, prompt, *args, **kwargs):
        seeds = tuple(len(text) for text in prompt)
        return tuple(None if shape is None else torch.ones(len(prompt), 5) if shape == "mask" else texts(seeds, 300, *shape)
                     for shape in self.shapes)


ENCODED = {
    "wan": ((5, 12), None), "ltx": ((5, 12), "mask", None, None), "cogvideox": ((5, 12), None),
    "mochi": ((5, 12), "mask", None, None),
    "hunyuan-video": ((5, 12), (10,), "mask"),
}


@pytest.mark.parametrize("name", ENCODED)
def test_prompts_are_encoded_by_the_pipeline(name):
    case = MORE[name]
    pipe = case.pipe()
    pipe.__dict__["encode_prompt"] = Encoder(*ENCODED[name])
    network = read_network(pipe.transformer)
    found = encode_condition(["a", "abc"], host_of(pipe), pipe, network)
    assert set(found) <= set(network.backbone.per_row) and all(len(value) == 2 for value in found.values())
    assert torch.equal(found["encoder_hidden_states"], texts((1, 3), 300, 5, 12))
    del pipe.__dict__["encode_prompt"]


@pytest.mark.parametrize(("name", "tokens", "text"), [("wan", 21 * 30 * 52, 0), ("ltx", 21 * 16 * 22, 0),
                                                      ("cogvideox", 13 * 30 * 45, 226), ("mochi", 4 * 30 * 53, 256),
                                                      ("hunyuan-video", 33 * 45 * 80, 256)])
def test_a_forecast_needs_the_configuration_alone(tmp_path, name, tokens, text):
    MORE[name].pipe().transformer.save_config(tmp_path / "transformer")
    found = forecast(str(tmp_path), [EMAG()], 28)
    assert (found["image_tokens"], found["text_tokens"], found["blocks"]) == (tokens, text, 4)
    assert found["weak"][0]["bytes"] > 0 and forecast(str(tmp_path), [EMAG()], 28, 320, 320)["image_tokens"] < tokens


@pytest.mark.parametrize(("name", "block"), [("wan", 0), ("ltx", 3), ("cogvideox", 1), ("mochi", 3), ("hunyuan-video", 0)])
def test_stg_takes_the_authors_block_at_its_relative_depth(name, block):
    _, run = made(MORE[name], METHODS["stg"]())
    assert run.resolved[0].layers == (block,) and run.resolved[0].scale == 2.0
