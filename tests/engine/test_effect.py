"""An effect, or an error."""

import sys

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

import emag
from cases import ALL, EMAG, EVERY
from invariant import Stop, in_callback
from spy import attention_of, blocks_of, changes, snapshot
from tiny import CASES, sd3

pytestmark = pytest.mark.sampled(2)

# 2: an effect, or an error


@EVERY
@pytest.mark.parametrize("variant", ["query", "map", "image"])
def test_every_variant_has_an_effect(case, variant):
    pipe = case.pipe()
    plain = case.run(pipe)
    with emag.guide(pipe, EMAG(variant=variant)) as run:
        moved = (case.run(pipe) - plain).abs().max() / plain.abs().max()
    assert moved > 1e-3
    assert run.stats.effect > 1e-4


@ALL
def test_nothing_differs_is_an_error(case):
    """Latents and timesteps that stand still: the average is the live attention, and nothing can differ."""
    pipe = case.pipe()
    case.run(pipe)
    before, original, first = snapshot(pipe), pipe.transformer.forward, {}

    def frozen(*args, **kwargs):
        kwargs = {**dict(zip(("hidden_states",), args)), **kwargs}
        for name in ("hidden_states", "timestep"):
            kwargs[name] = first.setdefault(name, kwargs[name].clone())[:len(kwargs[name])]
        return original(**kwargs)

    pipe.transformer.__dict__["forward"] = frozen
    with pytest.raises(emag.NoEffect, match="never differed"), emag.guide(pipe, EMAG(variant="query", beta=0.5)):
        case.run(pipe, seeds=(8,))
    del pipe.transformer.__dict__["forward"]
    assert changes(before, snapshot(pipe), own=False) == []


class ByHand:
    """A joint attention processor that computes its softmax itself."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        from diffusers.models.attention_processor import JointAttnProcessor2_0

        def softmax(query, key, value, **more):
            return (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1) @ value

        inner, F = JointAttnProcessor2_0(), sys.modules["diffusers.models.attention_processor"].F
        old, F.scaled_dot_product_attention = F.scaled_dot_product_attention, softmax
        try:
            return inner(attn, hidden_states, encoder_hidden_states, attention_mask)
        finally:
            F.scaled_dot_product_attention = old


BYPASS = {"sd3": ByHand, "dit": AttnProcessor, "pixart": AttnProcessor, "sigma": AttnProcessor}


@pytest.mark.parametrize("name", BYPASS)
def test_a_processor_without_sdpa_is_named(name):
    case, pipe = CASES[name], CASES[name].pipe()
    plain = case.run(pipe)
    for block in blocks_of(pipe):
        getattr(block, attention_of(name)).set_processor(BYPASS[name]())
    torch.testing.assert_close(case.run(pipe), plain, rtol=1e-3, atol=1e-3)
    before = snapshot(pipe)
    with pytest.raises(emag.NoEffect, match=BYPASS[name].__name__), emag.guide(pipe, EMAG()):
        case.run(pipe)
    assert changes(before, snapshot(pipe), own=False) == []


@pytest.mark.parametrize("name", ["sd3", "dit", "pixart"])
def test_a_bypass_in_one_candidate_only_is_an_error(name):
    case, pipe = CASES[name], CASES[name].pipe()
    getattr(blocks_of(pipe)[2], attention_of(name)).set_processor(BYPASS[name]())
    with pytest.raises(emag.NoEffect, match="block 2"), emag.guide(pipe, EMAG()):
        case.run(pipe)
    getattr(blocks_of(pipe)[2], attention_of(name)).set_processor(getattr(blocks_of(pipe)[1], attention_of(name)).processor)
    getattr(blocks_of(pipe)[3], attention_of(name)).set_processor(BYPASS[name]())
    with emag.guide(pipe, EMAG()):
        case.run(pipe)


def test_no_effect_never_masks_another_error():
    case, pipe = CASES["sd3"], sd3()
    for block in blocks_of(pipe):  # queries that do not move: their average is what they are
        torch.nn.init.zeros_(block.attn.norm_q.weight)
    with pytest.raises(Stop), emag.guide(pipe, EMAG(window=emag.Window.progress(0.6, 0.1, 1.0))):
        case.run(pipe, callback_on_step_end=in_callback(Stop))


def test_an_interrupted_pipeline_is_no_error():
    case, pipe = CASES["sd3"], sd3()

    def interrupt(pipe, step, timestep, values):
        pipe._interrupt = True
        return values

    with emag.guide(pipe, EMAG()) as run:
        case.run(pipe, callback_on_step_end=interrupt)
    assert run.stats.steps == 1


@pytest.mark.parametrize("name", ["flux", "true-cfg"])
def test_another_attention_backend_is_native_where_tapped(name, monkeypatch):
    """Tapped calls reach SDPA whatever the processor's backend; calls that are not tapped keep it; all is put back."""
    from diffusers.models import attention_dispatch as dispatch

    case, pipe = CASES[name], CASES[name].pipe()
    with emag.guide(pipe, EMAG()):
        expected = case.run(pipe)
    other, used = dispatch.AttentionBackendName.FLEX, []

    def opaque(query, key, value, **kwargs):
        used.append(query.shape)
        q, k, v = (x.permute(0, 2, 1, 3) for x in (query, key, value))
        return ((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v).permute(0, 2, 1, 3)

    registry = dispatch._AttentionBackendRegistry
    monkeypatch.setitem(registry._backends, other, opaque)
    monkeypatch.setitem(registry._supported_arg_names, other, {"query", "key", "value"})
    monkeypatch.setitem(registry._constraints, other, [])
    for block in blocks_of(pipe):
        block.attn.processor._attention_backend = other
    before = snapshot(pipe)
    with emag.guide(pipe, EMAG()) as run:
        torch.testing.assert_close(case.run(pipe), expected, rtol=1e-4, atol=1e-4)
    assert changes(before, snapshot(pipe), own=False) == []
    assert used and all(block.attn.processor._attention_backend is other for block in blocks_of(pipe))
    assert run.stats.effect > 0
