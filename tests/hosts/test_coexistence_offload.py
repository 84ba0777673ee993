"""Guidance beside offload, caches, and whatever else is done to a pipeline between calls."""

import copy

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, SequentialHook, add_hook_to_module, remove_hook_from_module
from diffusers import StableDiffusion3Pipeline
from diffusers.hooks import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, apply_first_block_cache

import emag
from cases import ALL
from coexisting import EMAG, guided, rules_for
from emag.methods.emag.compat import Compat
from spy import blocks_of, changes, snapshot
from tiny import CASES, sd3, sd3_call

pytestmark = pytest.mark.sampled(2)

# Offload and other module hooks


class Recorder(ModelHook):
    """An offload hook's shape: says when it loads and unloads its module."""

    def __init__(self, log, name):
        self.log, self.name = log, name

    def pre_forward(self, module, *args, **kwargs):
        self.log.append(("load", self.name))
        return args, kwargs

    def post_forward(self, module, output):
        self.log.append(("unload", self.name))
        return output


@ALL
@pytest.mark.parametrize("where", ["network", "blocks", "both"])
def test_accelerate_hooks(case, where):
    pipe, log = case.pipe(), []
    expected, plain = guided(case, pipe)[0], case.run(pipe)
    modules = {"network": [pipe.transformer], "blocks": blocks_of(pipe),
               "both": [pipe.transformer, *blocks_of(pipe)]}[where]
    for i, module in enumerate(modules):
        add_hook_to_module(module, SequentialHook(AlignDevicesHook(execution_device="cpu"), Recorder(log, i)))
    before = snapshot(pipe)
    out, _ = guided(case, pipe)
    assert torch.equal(out, expected)
    assert log and len(log) % 2 == 0
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)
    for module in modules:
        remove_hook_from_module(module)
    assert torch.equal(guided(case, pipe)[0], expected)


@ALL
def test_offload_hooks_that_are_set_anew_inside_a_call_survive(case):
    """`maybe_free_model_hooks` removes and adds the hooks of every module at the end of each call."""
    pipe, log, latest = case.pipe(), [], []
    expected, plain = guided(case, pipe)[0], case.run(pipe)
    modules = [pipe.transformer, *blocks_of(pipe)]

    def hook_all():
        for i, module in enumerate(modules):
            remove_hook_from_module(module)
            add_hook_to_module(module, Recorder(log, i))
        latest[:] = [vars(module)["forward"] for module in modules]

    hook_all()
    pipe.__dict__["maybe_free_model_hooks"] = hook_all
    with emag.guide(pipe, *rules_for(case)):
        assert torch.equal(case.run(pipe), expected)
        assert torch.equal(case.run(pipe), expected)
    assert all(vars(module)["forward"] is forward for module, forward in zip(modules, latest))
    log.clear()
    assert torch.equal(case.run(pipe), plain)
    assert {name for _, name in log} == set(range(len(modules)))
    for module in modules:
        remove_hook_from_module(module)
        assert "_old_forward" not in vars(module)
        assert vars(module).get("forward", type(module).forward.__get__(module)) == type(module).forward.__get__(module)
    assert torch.equal(case.run(pipe), plain)


@pytest.mark.parametrize("name", ["flux", "true-cfg", "sd3"])
def test_block_caches_are_refused(name):
    case, pipe = CASES[name], CASES[name].pipe()
    if not hasattr(pipe.transformer, "enable_cache"):
        pytest.skip("no caches on this network")
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.2))
    with pytest.raises(emag.Unsupported, match="cache"):
        guided(case, pipe)
    pipe.transformer.disable_cache()
    guided(case, pipe)


def test_attention_caches_are_refused():
    case, pipe = CASES["flux"], CASES["flux"].pipe()
    pipe.transformer.enable_cache(PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500))
    with pytest.raises(emag.Unsupported, match="cache"):
        guided(case, pipe)


def test_caches_applied_by_hand_are_refused():
    case, pipe = CASES["flux"], CASES["flux"].pipe()
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig(threshold=0.2))
    with pytest.raises(emag.Unsupported, match="cache"):
        guided(case, pipe)


def test_group_offload_needs_full_weak_passes():
    """Skipping a block would leave its group's weights where they are, so resuming is refused; a full pass works."""
    case, pipe = CASES["sd3"], sd3()
    full = EMAG(compat=Compat(resume=False))
    expected, plain = guided(case, pipe, full)[0], case.run(pipe)
    pipe.transformer.enable_group_offload(onload_device=torch.device("cpu"), offload_type="block_level",
                                          num_blocks_per_group=2)
    assert torch.equal(case.run(pipe), plain)
    with pytest.raises(emag.Unsupported, match="offload"):
        guided(case, pipe, EMAG())
    out, stats = guided(case, pipe, full)
    assert torch.equal(out, expected) and stats.effect > 0
    assert torch.equal(guided(case, pipe, emag.CFG(3.0))[0], guided(case, sd3(), emag.CFG(3.0))[0])


# Odds and ends


@pytest.mark.parametrize("name", ["sd3", "dit", "pixart", "flux"])
def test_one_generator_for_a_whole_batch(name):
    case, pipe = CASES[name], CASES[name].pipe()
    runs = [guided(case, pipe, EMAG(jitter=0.2), generator=torch.Generator().manual_seed(5))[0] for _ in range(2)]
    assert torch.equal(*runs) and not torch.equal(runs[0][0], runs[0][1])


def test_gradient_checkpointing_and_train_mode_do_not_matter():
    case, pipe = CASES["sd3"], sd3()
    expected = guided(case, pipe)[0]
    pipe.transformer.enable_gradient_checkpointing()
    pipe.transformer.train()
    assert torch.equal(guided(case, pipe)[0], expected)


def test_blocks_replaced_between_calls_are_tapped():
    case, pipe = CASES["sd3"], sd3()
    with emag.guide(pipe, *rules_for(case)) as run:
        expected = case.run(pipe)
        blocks = pipe.transformer.transformer_blocks
        for i in range(len(blocks)):
            blocks[i] = copy.deepcopy(blocks[i])
        assert torch.equal(case.run(pipe), expected)
    assert run.stats.effect > 0


def test_a_network_replaced_between_calls_is_guided():
    case, pipe = CASES["sd3"], sd3()
    other = guided(case, sd3(seed=3))[0]
    with emag.guide(pipe, *rules_for(case)):
        case.run(pipe)
        pipe.transformer = sd3(seed=3).transformer
        assert torch.equal(case.run(pipe), other)
        pipe.transformer = sd3(layers=2).transformer
        with pytest.raises(emag.BadValue, match="blocks 0 to 1"):
            case.run(pipe)


def test_the_call_keeps_its_signature():
    import inspect

    pipe = sd3()
    before = inspect.signature(pipe.__call__)
    with emag.guide(pipe, EMAG()):
        assert inspect.signature(pipe.__call__) == before
        assert isinstance(pipe, StableDiffusion3Pipeline) and type(pipe).__name__ == "StableDiffusion3Pipeline"
        assert set(pipe.components) == set(sd3().components)
        assert sd3_call().keys() <= set(before.parameters)
