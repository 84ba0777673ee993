"""Caches and wrappers that skip parts of the network: the same images, or refused by name; never passes mixed in silence."""

import types

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

import emag
from emag.engine.foreign import stand_ins
from emag.errors import Unsupported
from emag.lab.doctor.coverage import networks
from emag.methods import METHODS
from emag.schedules import Interval
from emag.testing.small_unet import MORE as UNET
from emag.testing.small_video import MORE as VIDEO
from spy import attribute, changes, denoiser_of, snapshot
from tiny import CASES

PAG, AG = METHODS["pag"](1.000001, (1,)), METHODS["ag"](0.9)
WHEN = {"current_timestep_callback": lambda: 500}
CACHES = {
    "first block": FirstBlockCacheConfig(threshold=0.9),
    "pyramid": PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2,
                                               spatial_attention_timestep_skip_range=(0, 1000), **WHEN),
    "faster": FasterCacheConfig(spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(-1, 1001),
                                unconditional_batch_timestep_skip_range=(-1, 1001), **WHEN),
    "mag": MagCacheConfig(threshold=0.5, max_skip_steps=2, retention_ratio=0.2, num_inference_steps=8,
                          mag_ratios=torch.ones(8)),
    "taylor": TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=2),
}


def far(a, b):
    return float((a - b).abs().max() / b.abs().max())


def counting(pipe):
    """Steps of the pipe's scheduler, as they are made."""
    made, step = [], pipe.scheduler.step
    pipe.scheduler.__dict__["step"] = lambda *args, **kwargs: made.append(1) or step(*args, **kwargs)
    return made


# Known ones, before anything is drawn


def cached(kind):
    case = CASES["true-cfg"] if kind == "taylor" else VIDEO["cogvideox"]
    pipe = case.pipe()
    pipe.transformer.enable_cache(CACHES[kind])
    return case, pipe


@pytest.mark.parametrize("kind", CACHES)
def test_cfg_beside_a_cache_is_the_hosts_own(kind):
    case, pipe = cached(kind)
    plain = case.run(pipe)
    case, pipe = cached(kind)
    with emag.guide(pipe, emag.CFG(case.call()[case.scale])):
        assert far(case.run(pipe), plain) < 1e-3


@pytest.mark.parametrize("rules", [(PAG,), (AG, emag.CFG(4.0)), (METHODS["icg"](), emag.CFG(4.0)),
                                   (emag.CFG(Interval(4.0, 0.2, 0.8, "progress")),)], ids=["pag", "ag", "icg", "interval"])
@pytest.mark.parametrize("kind", CACHES)
def test_other_passes_beside_a_cache_are_refused(kind, rules):
    case, pipe = cached(kind)
    made = counting(pipe)
    with emag.guide(pipe, *rules), pytest.raises(Unsupported, match="cache"):
        case.run(pipe)
    assert made == []


def tool(name):
    """A forward of a tool called `name`, put around another."""
    module = types.ModuleType(name)
    exec("def around(original):\n    def forward(*args, **kwargs):\n        return original(*args, **kwargs)\n"
         "    return forward", module.__dict__)
    return module.around


@pytest.mark.parametrize("name", ["cache_dit.caching.adapter", "DeepCache.extension", "tgate.sd", "teacache"])
def test_tools_are_known_by_name(name):
    case, pipe = CASES["sd3"], CASES["sd3"].pipe()
    net = pipe.transformer
    with attribute(net, "forward", tool(name)(net.forward)):
        with emag.guide(pipe, PAG), pytest.raises(Unsupported, match=name):
            case.run(pipe)
        with emag.guide(pipe, emag.CFG(4.0)):
            case.run(pipe)


def test_a_class_that_a_tool_changed(monkeypatch):
    monkeypatch.setattr(UNet2DConditionModel, "forward", tool("teacache")(UNet2DConditionModel.forward))
    assert ("", "teacache.forward") in stand_ins(UNET["sd"].pipe().unet)


@pytest.mark.slow
def test_nothing_stands_in_by_itself():
    assert not any(list(stand_ins(denoiser_of(case.pipe()))) for case in networks().values())


# Those of which nothing is known


def sparing(part, every=2):
    """A part's forward, evaluated every other call only."""
    whole, calls, kept = part.forward, [], {}

    def forward(*args, **kwargs):
        if len(calls) % every == 0:
            kept["out"] = whole(*args, **kwargs)
        calls.append(1)
        return kept["out"]

    return forward


PARTS = {"middle block": lambda net: net.mid_block, "block without attention": lambda net: net.down_blocks[1],
         "attention": lambda net: net.up_blocks[1].attentions[0].transformer_blocks[0].attn1,
         "residual block": lambda net: net.mid_block.resnets[0],
         "feed-forward": lambda net: net.down_blocks[0].attentions[0].transformer_blocks[0].ff}


@pytest.mark.parametrize("rules", [(PAG,), (METHODS["slg"](1.000001, (2,)),), (METHODS["negative"](1.000001),)],
                         ids=["pag", "slg", "negative"])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_kept_from_call_to_call(part, rules):
    case = UNET["sd"]
    pipe = case.pipe()
    net = PARTS[part](pipe.unet)
    case.run(pipe, num_inference_steps=1)
    conditions = {"negative": {"encoder_hidden_states": torch.ones(1, 5, 12)}}
    before = snapshot(pipe)
    with attribute(net, "forward", sparing(net)), emag.guide(pipe, *rules, conditions=conditions):
        with pytest.raises(Unsupported, match=r"(not evaluated as in the first step|would mix)"):
            case.run(pipe, guidance_scale=1.0)
    assert changes(before, snapshot(pipe), own=False) == []


def test_kept_tensors_of_other_rows_are_named():
    case, pipe = UNET["sd"], UNET["sd"].pipe()
    net, whole, kept = pipe.unet.mid_block, pipe.unet.mid_block.forward, []

    def forward(hidden, *args, **kwargs):
        kept.append(hidden)
        return whole(hidden + kept[0], *args, **kwargs)

    with attribute(net, "forward", forward), emag.guide(pipe, PAG):
        with pytest.raises(Unsupported, match=r"test_reached\.forward is the forward of mid_block"):
            case.run(pipe)


def test_other_errors_are_left_as_they_are():
    case, pipe = CASES["sd3"], CASES["sd3"].pipe()
    calls, norm = [], pipe.transformer.norm_out
    whole = norm.forward

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) > 1:
            raise torch.OutOfMemoryError("no memory")
        return whole(*args, **kwargs)

    with attribute(norm, "forward", failing), emag.guide(pipe, PAG), pytest.raises(torch.OutOfMemoryError):
        case.run(pipe)


@pytest.mark.parametrize("name", ["sd3", "pixart", "flux"])
def test_a_wrapper_that_keeps_nothing_changes_nothing(name):
    case = CASES[name]
    rules = (METHODS["pag"](2.0, (1,)),)
    made = []
    for wrapped in (False, True):
        pipe = case.pipe()
        for part in (pipe.transformer, pipe.transformer.transformer_blocks[1].attn1 if name == "pixart"
                     else pipe.transformer.transformer_blocks[1].attn) if wrapped else ():
            part.__dict__["forward"] = tool("logger")(part.forward)
        with emag.guide(pipe, *rules):
            made.append(case.run(pipe))
    assert torch.equal(*made)


def test_in_a_function():
    case, pipe = CASES["sd3"], CASES["sd3"].pipe()
    net, call = pipe.transformer, case.call()
    block = net.transformer_blocks[2]

    def denoiser(x, t, condition):
        return net(x, timestep=torch.full((len(x),), 1000 * t), return_dict=False,
                   encoder_hidden_states=call["prompt_embeds"], pooled_projections=call["pooled_prompt_embeds"])[0]

    model = emag.guided(denoiser, PAG, path=[1.0, 0.6, 0.3, 0.0], backbone=net)
    with attribute(block, "forward", sparing(block)), pytest.raises(Unsupported, match="not evaluated as in the first step"):
        emag.samplers.sample(model, torch.randn(2, 4, 8, 8))
    assert "forward" not in block.__dict__
