"""Guidance beside half precision, LoRA, fused projections and casts of layers."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer

import emag
from cases import ALL
from coexisting import EMAG, close, guided
from emag.methods.emag import stored_map
from tiny import CASES, sd3

pytestmark = pytest.mark.sampled(2)

# Weights


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", ["query", "map"])
def test_half_precision(case, dtype, variant):
    if case.name in ("pixart", "sigma") and dtype == torch.float16:
        pytest.skip("the plain pipeline overflows")
    pipe = case.pipe().to(dtype)
    call = {k: v.to(dtype) for k, v in case.call().items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    plain = case.run(pipe, **call)
    out, stats = guided(case, pipe, EMAG(variant=variant), **call)
    assert out.dtype == plain.dtype and out.isfinite().all()
    assert not torch.equal(out, plain) and stats.effect > 1e-3


@ALL
@pytest.mark.parametrize("variant", ["query", "map", "image"])
def test_autocast(case, variant, monkeypatch):
    """The network runs in half precision, the averages do not."""
    pipe, rules, kept = case.pipe(), (EMAG(variant=variant),), set()
    advance = stored_map.update_stored

    def watched(held, live, beta):
        kept.add((live.dtype, held.dtype))
        return advance(held, live, beta)

    monkeypatch.setattr(stored_map, "update_stored", watched)
    with torch.autocast("cpu", torch.bfloat16):
        plain = case.run(pipe)
        out, stats = guided(case, pipe, *rules)
    assert out.isfinite().all() and not torch.equal(out, plain) and stats.effect > 1e-3
    assert {held for _, held in kept} == {torch.float32}
    assert variant == "query" or kept == {(torch.float32, torch.float32)}


def add_lora(net):
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"])
    net.add_adapter(config) if hasattr(net, "add_adapter") else inject_adapter_in_model(config, net)


def lora_layers(net):
    return [module for module in net.modules() if isinstance(module, BaseTunerLayer)]


@ALL
@pytest.mark.parametrize("variant", ["query", "map"])
def test_lora(case, variant):
    """A LoRA loaded inside the block acts in clean and weak passes: same images as with its weights merged."""
    pipe, rules = case.pipe(), (EMAG(variant=variant),)
    with emag.guide(pipe, *rules) as run:
        without = case.run(pipe)
        add_lora(pipe.transformer)
        wearing = case.run(pipe)
        assert run.stats.evaluations == run.stats.planned and run.stats.effect > 0
        for layer in lora_layers(pipe.transformer):
            layer.enable_adapters(False)
        assert torch.equal(case.run(pipe), without)
        for layer in lora_layers(pipe.transformer):
            layer.enable_adapters(True)
    assert not close(wearing, without, 1e-2)
    assert torch.equal(guided(case, pipe, *rules)[0], wearing)
    for layer in lora_layers(pipe.transformer):
        layer.merge()
    assert close(guided(case, pipe, *rules)[0], wearing, 1e-3)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_the_lora_scale_reaches_weak_passes(name):
    case, pipe = CASES[name], CASES[name].pipe()
    without = guided(case, pipe, EMAG())[0]
    add_lora(pipe.transformer)
    off = guided(case, pipe, EMAG(), joint_attention_kwargs={"scale": 0.0})[0]
    assert close(off, without)
    assert not close(guided(case, pipe, EMAG(), joint_attention_kwargs={"scale": 0.5})[0], without, 1e-2)


@pytest.mark.parametrize("name", ["sd3", "pixart", "flux", "true-cfg"])
def test_fused_projections(name):
    case = CASES[name]
    pipe = sd3(qk_norm=None) if name == "sd3" else case.pipe()  # diffusers' fused SD3 processor forgets the norms
    expected = guided(case, pipe)[0]
    pipe.transformer.fuse_qkv_projections()
    out, stats = guided(case, pipe)
    assert close(out, expected, 1e-4)
    assert stats.effect > 0
    pipe.transformer.unfuse_qkv_projections()
    assert close(guided(case, pipe)[0], expected, 1e-4)


def test_layerwise_casting():
    case, pipe = CASES["flux"], CASES["flux"].pipe()
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    plain = case.run(pipe)
    out, stats = guided(case, pipe)
    assert out.isfinite().all() and not torch.equal(out, plain)
    assert torch.equal(case.run(pipe), plain)
    assert stats.effect > 0
