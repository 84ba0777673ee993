"""Networks that were loaded, wrapped or placed in other ways: exact, or refused in words before the run."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from accelerate import dispatch_model
from diffusers import SD3Transformer2DModel
from diffusers.hooks import HookRegistry
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

import emag
from coexisting import EMAG, close, guided
from emag.errors import Unsupported
from emag.hosts.hooks import SPLIT
from emag.methods import METHODS
from spy import blocks_of
from tiny import CASES

RULES = (EMAG(), METHODS["slg"](1.5, layers=(2,)))
CASE = CASES["sd3"]

# Quantised by bitsandbytes


def linears(net):
    return [(parent, name, child) for block in net.transformer_blocks for parent in block.modules()
            for name, child in parent.named_children() if type(child) is torch.nn.Linear]


@torch.no_grad()
def four_bits(net):
    """Linear layers in nf4, and the values that they stand for."""
    import bitsandbytes as bnb

    values = []
    for parent, name, child in linears(net):
        packed = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=child.bias is not None,
                                   compute_dtype=torch.float32, quant_type="nf4")
        packed.load_state_dict(child.state_dict())
        setattr(parent, name, packed.to("cpu"))  # what packs it
        values.append(bnb.functional.dequantize_4bit(packed.weight.data, packed.weight.quant_state))
    return values


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not here")
@pytest.mark.parametrize("variant", ["query", "map"])
def test_quantised_by_bitsandbytes(variant):
    """Same images, picks and counts as with dense weights of the same values."""
    pipe, dense = CASE.pipe(), CASE.pipe()
    targets = [child for _, _, child in linears(dense.transformer)]
    values = four_bits(pipe.transformer)
    with torch.no_grad():
        for child, value in zip(targets, values, strict=True):
            assert not torch.equal(child.weight, value)
            child.weight.copy_(value)
    (out, stats), (expected, other) = guided(CASE, pipe, EMAG(variant=variant)), guided(CASE, dense, EMAG(variant=variant))
    assert close(out, expected, 1e-3) and stats.effect > 1e-3
    assert stats.evaluations == other.evaluations and stats.picks == other.picks


# Placed by accelerate


@pytest.mark.parametrize("place", ["cpu", "balanced", {"": "cpu"}], ids=["device", "balanced", "map"])
def test_a_device_map(place, tmp_path):
    pipe = CASE.pipe()
    expected = guided(CASE, pipe, *RULES)[0]
    pipe.transformer.save_pretrained(tmp_path)
    pipe.transformer = SD3Transformer2DModel.from_pretrained(tmp_path, device_map=place)
    assert pipe.transformer.hf_device_map
    assert torch.equal(guided(CASE, pipe, *RULES)[0], expected)


def test_a_device_map_with_blocks_on_the_disk(tmp_path):
    """Blocks whose weights come from the disk as they are called; those that a weak pass skips are not brought."""
    pipe = CASE.pipe()
    expected, plain = guided(CASE, pipe, *RULES)[0], CASE.run(pipe)
    net = pipe.transformer
    places = {name: "cpu" for name, _ in net.named_children() if name != "transformer_blocks"}
    places |= {f"transformer_blocks.{at}": ("disk" if at % 2 else "cpu") for at in range(4)}
    dispatch_model(net, device_map=places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    assert {parameter.device.type for parameter in net.transformer_blocks[1].parameters()} == {"meta"}
    assert torch.equal(CASE.run(pipe), plain)
    assert torch.equal(guided(CASE, pipe, *RULES)[0], expected)


# Attention backends


@pytest.mark.parametrize("backend", [one.value for one in AttentionBackendName])
def test_every_attention_backend_gives_way_inside_the_tapped_modules(backend):
    """By name, whether it can run here or not: where a branch looks in, our own seam serves; the name stays set."""
    case = CASES["flux"]
    rule, pipe = EMAG(layers=(1, 3)), case.pipe()
    expected, stats = guided(case, case.pipe(), rule)
    for at in (1, 3):
        blocks_of(pipe)[at].attn.processor._attention_backend = AttentionBackendName(backend)
    out, again = guided(case, pipe, rule)
    assert close(out, expected, 1e-4) and again.picks == stats.picks
    assert blocks_of(pipe)[1].attn.processor._attention_backend == AttentionBackendName(backend)


@pytest.mark.parametrize("variant", ["query", "map"])
def test_a_backend_chosen_for_all(variant):
    case, rule = CASES["flux"], EMAG(layers=(1, 3), variant=variant)
    expected = guided(case, case.pipe(), rule)[0]
    before = attention_dispatch._AttentionBackendRegistry.get_active_backend()
    with attention_backend("_native_math"):
        assert close(guided(case, case.pipe(), rule)[0], expected, 1e-3)
    assert attention_dispatch._AttentionBackendRegistry.get_active_backend() == before


# Split over processes; that it works is seen in test_processes.py


def hook_of(kind):
    """A hook of diffusers' module `kind`, without processes."""
    from diffusers.hooks import ModelHook

    ring = SimpleNamespace(ring_degree=2, ulysses_degree=1, ulysses_anything=False)
    return type("Splitting", (ModelHook,), {"__module__": f"diffusers.hooks.{kind}", "parallel_config": ring})()


@pytest.mark.parametrize("kind", SPLIT)
def test_what_splits_blocks_is_refused_before_the_run(kind):
    pipe, evaluated = CASE.pipe(), []
    expected = guided(CASE, pipe, emag.CFG(3.0))[0]
    HookRegistry.check_if_exists_or_initialize(pipe.transformer.transformer_blocks[0]).register_hook(hook_of(kind), "split")
    pipe.transformer.register_forward_pre_hook(lambda *args: evaluated.append(1))
    for rule in RULES:
        with pytest.raises(Unsupported, match=r"parallelism.*keep to.*rules that (only )?combine"):
            guided(CASE, pipe, rule)
    assert evaluated == []
    assert torch.equal(guided(CASE, pipe, emag.CFG(3.0))[0], expected)


def test_the_older_fsdp_is_refused_with_the_way_out():
    class FullyShardedDataParallel(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self._fsdp_wrapped_module = module

    pipe = CASE.pipe()
    pipe.transformer = FullyShardedDataParallel(pipe.transformer)
    with pytest.raises(Unsupported, match="fully_shard, block by block"):
        guided(CASE, pipe)
