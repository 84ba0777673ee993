"""Where tokens, frames and channels of a video are; further pipelines and prompts."""

from dataclasses import replace

import pytest
import torch
from diffusers import LTXPipeline, UniPCMultistepScheduler

import emag
from cases import EMAG
from emag.engine import each_sample
from emag.engine.reading import read_network
from emag.hosts.given import encode_condition
from emag.hosts.lookup import host_of
from emag.lab.forecast import forecast
from emag.maths.layout import pack, planes, unpack
from emag.maths.masks import evaluate_mask
from emag.methods import METHODS
from emag.methods.combining.compose import Compose, Term
from emag.methods.weak.seg import SmoothedState
from emag.testing.small_video import cogvideox, mochi, texts, wan
from reference import at_step, tensors
from video import ALL, LAYERS, MORE, WEAK, WITH_UNCOND, Counted, Encoder, close, distance, made, traced

JOINT = [case for name, case in MORE.items() if name not in ("wan", "ltx")]


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
    pipe = MORE[name].pipe()
    pipe.save_config(tmp_path)
    pipe.transformer.save_config(tmp_path / "transformer")
    found = forecast(str(tmp_path), [EMAG()], 28)
    assert (found["image_tokens"], found["text_tokens"], found["blocks"]) == (tokens, text, 4)
    assert found["weak"][0]["bytes"] > 0 and forecast(str(tmp_path), [EMAG()], 28, 320, 320)["image_tokens"] < tokens


@pytest.mark.parametrize(("name", "block"), [("wan", 0), ("ltx", 3), ("cogvideox", 1), ("mochi", 3), ("hunyuan-video", 0)])
def test_stg_takes_the_authors_block_at_its_relative_depth(name, block):
    _, run = made(MORE[name], METHODS["stg"]())
    assert run.resolved[0].layers == (block,) and run.resolved[0].scale == 2.0
