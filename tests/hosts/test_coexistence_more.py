"""Guidance beside quantised weights, offloading, several adapters, other attention backends, compiled blocks and caches."""

import importlib.util

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_submodules
from diffusers import hooks
from diffusers.hooks.group_offloading import ModuleGroup
from diffusers.hooks.smoothed_energy_guidance_utils import SmoothedEnergyGuidanceHook
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName
from peft import LoraConfig
from torch._dynamo.utils import counters

import emag
from emag.errors import Unsupported
from emag.methods import METHODS
from emag.methods.emag.compat import Compat
from emag.testing.cases import every
from spy import blocks_of, changes, snapshot
from tiny import CASES

WINDOW = emag.Window.progress(0, 0.2, 0.9)


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 2), "window": WINDOW, **more})


def guided(case, pipe, *rules, **call):
    with emag.guide(pipe, *(rules or (EMAG(),))) as run:
        out = case.run(pipe, **call)
    return out, run.stats


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


# Quantised weights


class Int8(torch.nn.Module):
    """A linear layer of 8-bit weights, one scale a row; like those of quantisation libraries, it is no `nn.Linear`."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("codes", (linear.weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def dense(self):
        return self.codes.float() * self.scale

    def forward(self, x):
        return torch.nn.functional.linear(x, self.dense().to(x.dtype), self.bias)


def linears(net):
    return [(parent, name, child) for block in (*net.transformer_blocks, *getattr(net, "single_transformer_blocks", ()))
            for parent in block.modules() for name, child in parent.named_children() if type(child) is torch.nn.Linear]


@torch.no_grad()
def by_hand(net):
    """Quantised, and its values for a dense network to copy."""
    values = []
    for parent, name, child in linears(net):
        setattr(parent, name, Int8(child))
        values.append(getattr(parent, name).dense())
    return values


@torch.no_grad()
def by_torchao(net):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    found = [child for _, _, child in linears(net)]
    quantize_(net, Int8WeightOnlyConfig(), filter_fn=lambda module, name: any(module is child for child in found))
    return [child.weight.dequantize() for child in found]


TORCHAO = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not here")


@pytest.mark.parametrize("quantise", [by_hand, pytest.param(by_torchao, marks=TORCHAO)])
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_quantised_weights(name, quantise):
    """Same images, picks and counts as with dense weights of the same values."""
    case, pipe, dense = CASES[name], CASES[name].pipe(), CASES[name].pipe()
    targets = [child for _, _, child in linears(dense.transformer)]
    values = quantise(pipe.transformer)
    assert len(values) == len(targets) > 10
    with torch.no_grad():
        for child, value in zip(targets, values):
            assert not torch.equal(child.weight, value)
            child.weight.copy_(value)
    case.run(pipe)
    for rule in (EMAG(), EMAG(variant="map"), METHODS["slg"](2.0, layers=(1,))):
        before = snapshot(pipe)
        (out, stats), (expected, other) = guided(case, pipe, rule), guided(case, dense, rule)
        assert close(out, expected, 1e-3) and stats.effect > 1e-3
        assert stats.evaluations == stats.planned == other.evaluations and stats.picks == other.picks
        assert changes(before, snapshot(pipe), own=False) == []


# Adapters


def add_adapter(net, name, seed):
    torch.manual_seed(seed)
    net.add_adapter(LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=["to_q", "to_v"]), name)


def with_adapters(case, *adapters):
    pipe = case.pipe()
    for name, seed in adapters:
        add_adapter(pipe.transformer, name, seed)
    return pipe


@pytest.mark.parametrize("name", ["sd3", "flux"])
@pytest.mark.parametrize("variant", ["query", "map"])
def test_several_adapters_with_weights_of_their_own(name, variant):
    """As with the weighted sum of both merged into the weights."""
    case, rule = CASES[name], EMAG(variant=variant)
    pipe = with_adapters(case, ("a", 3), ("b", 4))
    pipe.transformer.set_adapters(["a", "b"], [0.7, 0.4])
    out, stats = guided(case, pipe, rule)
    assert stats.effect > 1e-3 and stats.evaluations == stats.planned
    for weights in ([0.4, 0.7], [0.7, 0.0]):
        pipe.transformer.set_adapters(["a", "b"], weights)
        assert not close(guided(case, pipe, rule)[0], out, 1e-2)
    pipe.transformer.set_adapters(["a", "b"], [0.7, 0.4])
    pipe.transformer.fuse_lora(adapter_names=["a", "b"])
    assert close(guided(case, pipe, rule)[0], out, 1e-3)


@pytest.mark.slow
def test_adapters_swapped_between_the_calls_of_one_guidance():
    case = CASES["sd3"]
    alone = {name: guided(case, with_adapters(case, (name, seed)))[0] for name, seed in (("a", 3), ("b", 4))}
    pipe = with_adapters(case, ("a", 3))
    with emag.guide(pipe, EMAG()) as run:
        assert torch.equal(case.run(pipe), alone["a"])
        add_adapter(pipe.transformer, "b", 4)
        pipe.transformer.set_adapter("b")
        assert close(case.run(pipe), alone["b"])
        pipe.transformer.set_adapter("a")
        assert close(case.run(pipe), alone["a"])
        pipe.transformer.delete_adapters("a")
        pipe.transformer.set_adapter("b")
        assert close(case.run(pipe), alone["b"])
        assert run.stats.effect > 1e-3 and run.stats.evaluations == run.stats.planned
    assert not close(alone["a"], alone["b"], 1e-2)


def test_an_adapters_weights_replaced_in_place_between_calls():
    """What hot-swapping does: the modules stay, their weights are others."""
    case = CASES["sd3"]
    pipe, other = with_adapters(case, ("a", 3)), with_adapters(case, ("a", 4))
    expected = guided(case, other)[0]
    with emag.guide(pipe, EMAG()):
        assert not close(case.run(pipe), expected, 1e-2)
        pipe.transformer.load_state_dict(other.transformer.state_dict())
        assert torch.equal(case.run(pipe), expected)


# Offloading


def sequential(pipe):
    """Weights on "meta" but for the module that runs, as `enable_sequential_cpu_offload` does it."""
    for part in (pipe.transformer, pipe.vae):
        cpu_offload(part, execution_device=torch.device("cpu"), offload_buffers=False)
    return lambda: [remove_hook_from_submodules(part) for part in (pipe.transformer, pipe.vae)]


def by_model(pipe):
    """As `enable_model_cpu_offload` does it."""
    _, hook = cpu_offload_with_hook(pipe.transformer, execution_device=torch.device("cpu"))
    return hook.remove


@pytest.mark.parametrize("offload", [sequential, by_model])
@pytest.mark.parametrize("name", ["sd3", "pixart", "flux"])
def test_accelerate_offloading(name, offload):
    case, pipe = CASES[name], CASES[name].pipe()
    rules = EMAG(), METHODS["slg"](1.5, layers=(2,))
    expected, plain = guided(case, pipe, *rules)[0], case.run(pipe)
    undo = offload(pipe)
    if offload is sequential:
        assert all(parameter.device.type == "meta" for parameter in pipe.transformer.transformer_blocks.parameters())
    out, stats = guided(case, pipe, *rules)
    assert torch.equal(out, expected) and stats.effect > 1e-3
    assert torch.equal(case.run(pipe), plain)
    undo()
    assert torch.equal(guided(case, pipe, *rules)[0], expected)


@pytest.fixture
def groups(monkeypatch):
    """Group offload on one device: weights that are away are NaN. Holds what is there, group by group."""
    kept, there = {}, set()

    def away(group):
        for parameter in weights(group):
            kept.setdefault(id(parameter), parameter.data)
            parameter.data = torch.full_like(kept[id(parameter)], torch.nan)
        there.discard(id(group))

    def back(group):
        for parameter in weights(group):
            parameter.data = kept[id(parameter)]
        there.add(id(group))

    def weights(group):
        return [*(p for module in group.modules for p in module.parameters()), *group.parameters]

    monkeypatch.setattr(ModuleGroup, "offload_", away)
    monkeypatch.setattr(ModuleGroup, "onload_", back)
    return there


SINGLE = {"offload_type": "block_level", "num_blocks_per_group": 1}
LEAVES = {"offload_type": "leaf_level"}
PAIRS = {"offload_type": "block_level", "num_blocks_per_group": 2}
RULES = {"emag": EMAG(), "late": EMAG(layers=(3,)), "slg": METHODS["slg"](1.5, layers=(1,)),
         "seg": METHODS["seg"](1.5, layers=(0, 3))}


@pytest.mark.parametrize("how", [SINGLE, LEAVES], ids=["single blocks", "leaves"])
@pytest.mark.parametrize("name", ["sd3", "flux"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_groups_of_one_block_are_offloaded(name, how, rule, groups):
    """Every block that runs has its weights, none that is skipped keeps them."""
    case, pipe = CASES[name], CASES[name].pipe()
    expected, stats = guided(case, pipe, rule)
    pipe.transformer.enable_group_offload(onload_device=torch.device("cpu"), **how)
    out, again = guided(case, pipe, rule)
    assert torch.equal(out, expected) and again.evaluations == stats.evaluations
    assert all(parameter.isnan().all() for block in blocks_of(pipe) for parameter in block.parameters())


def test_groups_of_several_blocks_need_full_weak_passes(groups):
    case, pipe = CASES["sd3"], CASES["sd3"].pipe()
    full = EMAG(compat=Compat(resume=False))
    expected = guided(case, pipe, full)[0]
    pipe.transformer.enable_group_offload(onload_device=torch.device("cpu"), **PAIRS)
    for rule in [rule for label, rule in RULES.items() if label != "seg"]:  # from block 0 on nothing is skipped
        with pytest.raises(Unsupported, match="num_blocks_per_group=1"):
            guided(case, pipe, rule)
    assert torch.equal(guided(case, pipe, full)[0], expected)


# Attention backends


@pytest.fixture
def active_backend():
    registry = attention_dispatch._AttentionBackendRegistry
    before = registry.get_active_backend()[0]
    yield
    registry.set_active_backend(before)


@pytest.mark.parametrize(("backend", "variant"), [("_native_math", "query"), ("_native_math", "map"), ("flex", "map")])
def test_other_attention_backends(backend, variant, active_backend):
    """The user's backend stays outside the tapped modules; inside them the native one serves, and the branch acts."""
    case, rule = CASES["flux"], EMAG(layers=(1, 3), variant=variant)
    expected, stats = guided(case, CASES["flux"].pipe(), rule)
    pipe = case.pipe()
    pipe.transformer.set_attention_backend(backend)
    assert close(case.run(pipe), case.run(case.pipe()), 1e-3)
    before = snapshot(pipe)
    out, again = guided(case, pipe, rule)
    assert close(out, expected, 1e-3) and again.effect == pytest.approx(stats.effect, rel=1e-2)
    assert again.picks == stats.picks
    assert changes(before, snapshot(pipe), own=False) == []
    used = {block.attn.processor._attention_backend for block in blocks_of(pipe)}
    assert used == {AttentionBackendName(backend)}


# Compiled blocks


@pytest.mark.slow
def test_compiled_blocks_are_traced_once():
    """After a guided and a plain call nothing is traced again, whatever comes in turn; the effect stays."""
    case, few = CASES["flux"], {"num_inference_steps": 3, "seeds": (8,)}
    rules = EMAG(layers=(1,)), METHODS["slg"](1.5, layers=(0,))
    expected, stats = guided(case, case.pipe(layers=1, single=2), *rules, **few)
    torch._dynamo.reset()
    counters.clear()
    pipe = case.pipe(layers=1, single=2)
    pipe.transformer.compile_repeated_blocks(backend="eager")
    with emag.guide(pipe, *rules) as run:
        case.run(pipe, **few)
    case.run(pipe, **few)
    graphs = counters["stats"]["unique_graphs"]
    with torch._dynamo.config.patch(error_on_recompile=True):
        with emag.guide(pipe, *rules) as run:
            assert close(case.run(pipe, **few), expected, 1e-4)
            assert close(case.run(pipe, **few), expected, 1e-4)
        case.run(pipe, **few)
    assert 0 < counters["stats"]["unique_graphs"] == graphs <= 30
    assert run.stats.effect == pytest.approx(stats.effect, rel=1e-2) and run.stats.evaluations == stats.evaluations
    torch._dynamo.reset()


# What changes the blocks' answers behind our back


def _now():
    return 500


HOOKS = {
    "FirstBlockCacheConfig": lambda net: net.enable_cache(hooks.FirstBlockCacheConfig(0.2)),
    "FasterCacheConfig": lambda net: net.enable_cache(hooks.FasterCacheConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=_now, attention_weight_callback=lambda module: 0.5)),
    "PyramidAttentionBroadcastConfig": lambda net: net.enable_cache(hooks.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=_now)),
    "TaylorSeerCacheConfig": lambda net: net.enable_cache(hooks.TaylorSeerCacheConfig()),
    "MagCacheConfig": lambda net: net.enable_cache(hooks.MagCacheConfig(num_inference_steps=8, mag_ratios=torch.ones(8))),
    "SeaCacheConfig": lambda net: net.enable_cache(hooks.SeaCacheConfig()),
    "TextKVCacheConfig": lambda net: net.enable_cache(hooks.TextKVCacheConfig()),
    "LayerSkipConfig": lambda net: hooks.apply_layer_skip(net, hooks.LayerSkipConfig([0], fqn="transformer_blocks")),
    "SmoothedEnergyGuidanceConfig": lambda net: hooks.HookRegistry.check_if_exists_or_initialize(
        net.transformer_blocks[0].attn.to_q).register_hook(SmoothedEnergyGuidanceHook(1.0), "blur"),
}


def test_every_hook_of_diffusers_is_in_the_list():
    assert {name for name in vars(hooks) if name.endswith("Config")} == HOOKS.keys()


@pytest.mark.parametrize("name", [name for name in HOOKS if name != "TextKVCacheConfig"])
def test_hooks_that_change_what_blocks_compute_are_refused(name):
    """Before anything is evaluated, by name; a guidance without weak branches does not mind."""
    case, pipe = CASES["flux"], CASES["flux"].pipe()
    HOOKS[name](pipe.transformer)
    before, evaluated = snapshot(pipe), []
    pipe.transformer.register_forward_pre_hook(lambda *args: evaluated.append(1))
    for rule in (EMAG(), METHODS["slg"](1.5, layers=(1,))):
        with pytest.raises(Unsupported, match=r"Hook \(\w+\) is at work in the network.*Switch it off") as refused:
            guided(case, pipe, rule)
        assert "may change" not in str(refused.value)  # each has its own reason
    assert evaluated == []
    assert [change for change in changes(before, snapshot(pipe), own=False) if "_forward_pre_hooks" not in change] == []


def test_a_cache_of_the_texts_keys_is_exact():
    """It keeps what does not depend on the step; a text that is made anew in each step may lie where another one was."""
    case, rules = every()["nucleus"], (EMAG(), METHODS["slg"](1.5, layers=(1,)), emag.CFG(3.0))
    pipe = case.pipe()
    HOOKS["TextKVCacheConfig"](pipe.transformer)
    (made, stats), (expected, alone) = guided(case, pipe, *rules), guided(case, case.pipe(), *rules)
    assert torch.equal(made, expected) and stats.evaluations == alone.evaluations
    with pytest.raises(Unsupported, match="the cache of the text's keys tells texts by where they are in memory, and cads"):
        guided(case, pipe, emag.CADS(0.3))


def test_a_guided_function_refuses_them_too():
    net = CASES["flux"].pipe().transformer
    HOOKS["FirstBlockCacheConfig"](net)
    model = emag.guided(lambda x, t, condition: net(x), EMAG(), path=(1.0, 0.7, 0.5, 0.2, 0.0), backbone=net)
    with pytest.raises(Unsupported, match="first_block_cache"):
        model(torch.zeros(1, 4, 16), 0)
