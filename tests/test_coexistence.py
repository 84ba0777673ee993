"""Guidance beside everything else people do to a pipeline: threads, LoRA, adapters, hooks, compile, offload."""

import copy
import threading
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from accelerate.hooks import AlignDevicesHook, ModelHook, SequentialHook, add_hook_to_module, remove_hook_from_module
from diffusers import StableDiffusion3Pipeline
from diffusers.hooks import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, apply_first_block_cache
from diffusers.models.attention_processor import AttnProcessor2_0, JointAttnProcessor2_0, SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, IPAdapterTimeImageProjection, MultiIPAdapterImageProjection
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer

import emag
from cases import ALL
from emag.methods.emag import stored_map
from emag.methods.emag.compat import Compat
from spy import attention_of, blocks_of, changes, snapshot
from tiny import CASES, awaken, noise, sd3, sd3_call

WINDOW = emag.Window.progress(0, 0.2, 0.9)


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 2), "window": WINDOW, **more})


def rules_for(case):
    return (EMAG(), emag.CFG(3.0)) if case.uncond else (EMAG(),)


def guided(case, pipe, *rules, **call):
    with emag.guide(pipe, *(rules or rules_for(case))) as run:
        out = case.run(pipe, **call)
    return out, run.stats


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


# One run at a time per network


@ALL
def test_two_threads_with_two_pipelines(case):
    seeds = [(1, 2), (3,)]
    alone = [guided(case, case.pipe(), seeds=s)[0] for s in seeds]
    pipes, results, gate = [case.pipe(), case.pipe()], [[], []], threading.Barrier(2)

    def work(i):
        gate.wait()
        for _ in range(3):
            results[i].append(guided(case, pipes[i], seeds=seeds[i])[0])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(r) == 3 and all(torch.equal(x, a) for x in r) for r, a in zip(results, alone))


def sharing(pipe):
    """Another pipeline on the same network."""
    other = sd3()
    other.transformer = pipe.transformer
    return other


@contextmanager
def at_step(pipe, number, action):
    """Run `action` before the scheduler's step `number`, in the middle of a run."""
    original, count = pipe.scheduler.step, []

    def step(*args, **kwargs):
        count.append(1)
        if len(count) == number:
            action()
        return original(*args, **kwargs)

    pipe.scheduler.__dict__["step"] = step
    yield
    del pipe.scheduler.__dict__["step"]


def in_thread(action):
    def run():
        thread = threading.Thread(target=action)
        thread.start()
        thread.join()
    return run


@ALL
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same thread", "other thread"])
@pytest.mark.parametrize("second", ["guided", "plain"])
def test_a_network_in_use_refuses_others_and_is_not_disturbed(case, elsewhere, second):
    pipe, other = case.pipe(), case.pipe(seed=1)
    other.transformer = pipe.transformer
    plain, (expected, _) = case.run(pipe), guided(case, pipe)
    before, errors = snapshot(pipe), []

    def intrude():
        try:
            case.run(other) if second == "plain" else guided(case, other)
        except emag.EmagError as error:
            errors.append(error)

    with at_step(pipe, 4, in_thread(intrude) if elsewhere else intrude):
        out, stats = guided(case, pipe)
    assert torch.equal(out, expected)
    assert [type(e) for e in errors] == [emag.Busy] if second == "guided" or elsewhere else len(errors) == 1
    assert "already serves" in str(errors[0]) or "serves a guided run in another thread" in str(errors[0]) \
        or "out of turn" in str(errors[0])
    assert stats.evaluations == stats.planned
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain) and torch.equal(case.run(other), case.run(other))


def test_a_plain_call_on_a_network_in_use_ends_the_run_with_a_clear_error():
    case, pipe = CASES["sd3"], sd3()
    other, plain, before = sharing(pipe), case.run(pipe), snapshot(pipe)
    with pytest.raises(emag.EmagError, match="out of turn"), at_step(pipe, 3, lambda: case.run(other)):
        guided(case, pipe)
    pipe.scheduler.__dict__.pop("step", None)
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)


def test_another_batch_size_from_inside_a_run_is_refused():
    case, pipe = CASES["sd3"], sd3()
    expected, errors = guided(case, pipe)[0], []

    def intrude():
        time = pipe.scheduler.timesteps[3:4].expand(6)
        with pytest.raises(emag.EmagError, match="out of turn"):
            pipe.transformer(noise(0, 6, 4, 8, 8), noise(1, 6, 5, 12), noise(2, 6, 10), time)
        errors.append(1)

    with at_step(pipe, 3, intrude):
        assert torch.equal(guided(case, pipe)[0], expected)
    assert errors


def test_a_guided_pipeline_cannot_be_guided_again():
    pipe = sd3()
    with emag.guide(pipe, EMAG()) as run:
        with pytest.raises(emag.Busy, match="already inside"):
            emag.guide(pipe, emag.CFG(3.0)).__enter__()
        CASES["sd3"].run(pipe)
    assert run.stats.effect > 0 and type(pipe) is StableDiffusion3Pipeline


@ALL
def test_a_call_of_the_guided_pipeline_from_inside_itself_is_refused(case):
    pipe = case.pipe()
    expected = guided(case, pipe)[0]
    with pytest.raises(emag.Busy), at_step(pipe, 4, lambda: case.run(pipe)):
        guided(case, pipe)
    pipe.scheduler.__dict__.pop("step", None)
    assert torch.equal(guided(case, pipe)[0], expected)


def test_a_shared_network_may_be_guided_by_both_in_turn():
    case, pipe = CASES["sd3"], sd3()
    other = sharing(pipe)
    expected = guided(case, pipe)[0]
    with emag.guide(pipe, *rules_for(case)), emag.guide(other, *rules_for(case)):
        assert torch.equal(case.run(pipe), expected)
        assert torch.equal(case.run(other), expected)
        assert torch.equal(case.run(pipe), expected)


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


# Attention processors


class Scaled(JointAttnProcessor2_0):
    """A user's processor that takes an argument of its own."""

    seen: list = []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, my_scale=1.0, my_rows=None, **kwargs):
        if isinstance(my_rows, (list, tuple)):
            my_rows = my_rows[0]
        if my_rows is not None:
            assert my_rows.shape[0] in (1, hidden_states.shape[0])
            hidden_states = hidden_states + my_rows.view(-1, 1, 1)
        out, text = super().__call__(attn, hidden_states, encoder_hidden_states)
        self.seen.append(my_scale)
        return out * my_scale, text


def scaled():
    pipe = sd3()
    Scaled.seen.clear()
    pipe.transformer.set_attn_processor(Scaled())
    return pipe


def test_arguments_of_custom_processors_arrive_in_every_pass():
    case, pipe = CASES["sd3"], scaled()
    outs = [guided(case, pipe, joint_attention_kwargs={"my_scale": s})[0] for s in (1.0, 0.5)]
    assert torch.equal(outs[0], guided(case, sd3())[0]) and not close(outs[1], outs[0], 1e-2)
    Scaled.seen.clear()
    guided(case, pipe, joint_attention_kwargs={"my_scale": 0.7})
    assert set(Scaled.seen) == {0.7}


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: (x,)], ids=["tensor", "list", "tuple"])
def test_arguments_with_batch_rows_must_be_declared(wrap):
    case, pipe = CASES["sd3"], scaled()
    rows = torch.tensor([0.0, 0.1, 0.2, 0.3])  # two unconditional rows, two conditional ones
    call = {"joint_attention_kwargs": {"my_rows": wrap(rows)}}
    with pytest.raises(emag.Unsupported, match=r"my_rows.*per_row=\('my_rows',\)"):
        guided(case, pipe, EMAG(), **call)
    with emag.guide(pipe, EMAG(), per_row=("my_rows",)):
        together = case.run(pipe, (8, 9), **call)
        alone = [case.run(pipe, (seed,), joint_attention_kwargs={"my_rows": wrap(rows[i::2])})
                 for i, seed in enumerate((8, 9))]
    assert close(together, torch.cat(alone), 1e-4)
    assert not close(together, guided(case, pipe, EMAG())[0], 1e-2)


def test_arguments_without_batch_rows_can_be_declared_shared():
    case, pipe, four = CASES["sd3"], sd3(), torch.ones(4)

    class Four(JointAttnProcessor2_0):
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, gains=None, **kwargs):
            assert gains.shape == (4,)
            return super().__call__(attn, hidden_states * gains.mean(), encoder_hidden_states)

    pipe.transformer.set_attn_processor(Four())
    with pytest.raises(emag.Unsupported, match="gains"):
        guided(case, pipe, EMAG(), joint_attention_kwargs={"gains": four})
    with emag.guide(pipe, EMAG(), shared=("gains",)) as run:
        case.run(pipe, joint_attention_kwargs={"gains": four})
    assert run.stats.effect > 0


@torch.no_grad()
def sd3_with_ip_adapter():
    pipe = sd3()
    torch.manual_seed(0)
    net = pipe.transformer
    net.image_proj = awaken(IPAdapterTimeImageProjection(
        embed_dim=6, output_dim=10, hidden_dim=8, depth=1, dim_head=4, heads=2, num_queries=3, timestep_in_dim=8), 5)
    processors = {name: awaken(SD3IPAdapterJointAttnProcessor2_0(16, 10, 8, timesteps_emb_dim=8, scale=0.8), i)
                  for i, name in enumerate(net.attn_processors)}
    net.set_attn_processor(processors)
    return pipe


@pytest.mark.parametrize("variant", ["query", "map"])
def test_sd3_ip_adapter(variant):
    case, pipe = CASES["sd3"], sd3_with_ip_adapter()
    images = {"ip_adapter_image_embeds": noise(700, 2, 1, 6)}  # one negative, one positive, repeated for each prompt
    plain, before = case.run(pipe, **images), snapshot(pipe)
    with emag.guide(pipe, EMAG(variant=variant)) as run:
        together = case.run(pipe, **images)
        assert run.stats.effect > 0 and run.stats.evaluations == run.stats.planned
        alone = torch.cat([case.run(pipe, (s,), **images) for s in (8, 9)])
        other = case.run(pipe, ip_adapter_image_embeds=noise(701, 2, 1, 6))
    assert not torch.equal(together, plain)
    assert close(together, alone, 1e-4) and not close(together, other, 1e-3)
    assert changes(before, snapshot(pipe), own=False) == []
    with emag.guide(pipe, EMAG(variant=variant, compat=Compat(resume=False))):
        assert close(case.run(pipe, **images), together, 1e-4)


@pytest.mark.parametrize("name", ["flux", "true-cfg"])
@torch.no_grad()
def test_flux_ip_adapter(name):
    case, pipe = CASES[name], CASES[name].pipe()
    net = pipe.transformer
    net.encoder_hid_proj = MultiIPAdapterImageProjection(
        [awaken(ImageProjection(image_embed_dim=6, cross_attention_dim=12, num_image_text_embeds=2), 5)])
    net.set_attn_processor({key: awaken(FluxIPAdapterAttnProcessor(32, 12, (2,)), 1) if "single" not in key else value
                            for key, value in net.attn_processors.items()})

    images = {"ip_adapter_image_embeds": [noise(710, 1, 1, 6)], "negative_ip_adapter_image_embeds": [noise(700, 1, 1, 6)]}
    plain = case.run(pipe, **images)
    with emag.guide(pipe, EMAG(layers=(0, 1, 3))) as run:
        together = case.run(pipe, **images)
        assert run.stats.effect > 0 and run.stats.evaluations == run.stats.planned
        alone = torch.cat([case.run(pipe, (s,), **images) for s in (8, 9)])
    assert not torch.equal(together, plain)
    assert close(together, alone, 1e-4)
    with emag.guide(pipe, EMAG(layers=(0, 1, 3), compat=Compat(resume=False))):
        assert torch.equal(case.run(pipe, **images), together)


class Beside(AttnProcessor2_0):
    """Self-attention with a second call for as many queries, on keys of its own, as adapters make it."""

    def __call__(self, attn, hidden_states, *args, **kwargs):
        out = super().__call__(attn, hidden_states, *args, **kwargs)
        keys = noise(5, 1, 2, 3, 8).expand(len(out), -1, -1, -1)
        query = attn.to_q(hidden_states).unflatten(-1, (2, 8)).transpose(1, 2)
        return out + 0.5 * F.scaled_dot_product_attention(query, keys, keys).transpose(1, 2).flatten(2)


def test_a_second_attention_on_other_keys_is_let_through():
    case, pipe = CASES["pixart"], CASES["pixart"].pipe()
    without = guided(case, pipe, EMAG())[0]
    for block in blocks_of(pipe):
        block.attn1.set_processor(Beside())
    out, stats = guided(case, pipe, EMAG())
    assert stats.effect > 0 and not close(out, without, 1e-2)


def test_attention_slicing_is_an_error_that_names_the_processor():
    case, pipe = CASES["pixart"], CASES["pixart"].pipe()
    expected = guided(case, pipe)[0]
    pipe.enable_attention_slicing()
    assert close(guided(case, pipe)[0], expected, 1e-4)
    for block in blocks_of(pipe):
        block.attn1.set_attention_slice(1)
    with pytest.raises(emag.NoEffect, match="SlicedAttnProcessor"):
        guided(case, pipe)


# Hooks of the user


@ALL
def test_hooks_see_true_evaluations_only(case):
    """Hooks and pre-hooks on blocks, and inside them, fire as often as a block is evaluated, on what it is given."""
    pipe, seen = case.pipe(), []
    expected = guided(case, pipe)[0]

    def pre(index):
        def hook(module, args, kwargs):
            seen.append(("pre", index, kwargs.get("hidden_states", args[0] if args else None).clone()))
        return hook

    def post(index):
        def hook(module, args, kwargs, output):
            seen.append(("post", index, kwargs.get("hidden_states", args[0] if args else None).clone()))
        return hook

    inside, handles = [], []
    for index, block in enumerate(blocks_of(pipe)):
        handles += [block.register_forward_pre_hook(pre(index), with_kwargs=True),
                    block.register_forward_hook(post(index), with_kwargs=True),
                    getattr(block, attention_of(case.name)).register_forward_hook(
                        lambda m, a, o, index=index: inside.append(index))]
    out, stats = guided(case, pipe)
    assert torch.equal(out, expected)
    images = 2
    for kind in ("pre", "post"):
        rows = sum(len(x) for k, _, x in seen if k == kind)
        assert rows == stats.evaluations * images
    assert len(inside) == len(seen) // 2
    assert [index for kind, index, _ in seen if kind == "post"] == inside
    before, after = ([x for k, _, x in seen if k == kind] for kind in ("pre", "post"))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    # a block's input is what the block before it gave: also at the block where a weak pass resumes
    at_resume = [x for k, index, x in seen if k == "pre" and index == 1]
    clean = {x.shape for x in at_resume}
    assert len(at_resume) == stats.steps * (2 if case.name == "true-cfg" else 1) + sum(e is not None for e in stats.effects)
    if case.name not in ("flux", "true-cfg"):
        assert len(clean) == 2
        big = None
        for x in at_resume:
            if x.shape[0] == 4:
                big = x
            else:
                assert any(torch.equal(x, half) for half in big.chunk(2))
    for handle in handles:
        handle.remove()


@ALL
def test_a_hook_that_changes_a_blocks_input_counts_once(case):
    """A steering pre-hook on the block where weak passes resume acts as it does in a full weak pass."""
    pipe, outs = case.pipe(), []

    def steer(module, args, kwargs):
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": kwargs["hidden_states"] * 1.1 + 0.05}
        return (args[0] * 1.1 + 0.05, *args[1:]), kwargs

    unsteered = guided(case, pipe)[0]
    for block in blocks_of(pipe)[:3]:
        block.register_forward_pre_hook(steer, with_kwargs=True)
    for resume in (True, False):
        outs.append(guided(case, pipe, EMAG(compat=Compat(resume=resume)))[0])
    assert close(outs[0], outs[1], 5e-4 if case.name in ("pixart", "sigma") else 1e-4)
    assert not close(outs[0], unsteered, 1e-2)


@ALL
def test_hooks_added_between_calls_survive(case):
    pipe, fired = case.pipe(), []
    with emag.guide(pipe, *rules_for(case)):
        expected = case.run(pipe)
        handle = blocks_of(pipe)[1].register_forward_hook(lambda *args: fired.append(1))
        inner = getattr(blocks_of(pipe)[1], attention_of(case.name)).register_forward_pre_hook(lambda *a: fired.append(2))
        assert torch.equal(case.run(pipe), expected)
        during = len(fired)
    assert during > 0
    case.run(pipe)
    assert len(fired) > during
    assert fired.count(1) == fired.count(2)
    handle.remove()
    inner.remove()
    fired.clear()
    case.run(pipe)
    assert fired == []


@ALL
def test_a_hook_on_the_network_sees_the_hosts_calls(case):
    pipe, outputs = case.pipe(), []
    pipe.transformer.register_forward_hook(lambda m, a, out: outputs.append(out[0].shape[0]))
    guided(case, pipe)
    calls = 16 if case.name == "true-cfg" else 8
    assert len(outputs) == calls and len(set(outputs)) == 1


# torch.compile


class Graphs:
    """A compile backend that counts what it is given and runs it as it is."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def whole(pipe, backend):
    pipe.transformer = torch.compile(pipe.transformer, backend=backend)


def in_place(pipe, backend):
    pipe.transformer.compile(backend=backend)


def forward_only(pipe, backend):
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend=backend)


def repeated_blocks(pipe, backend):
    pipe.transformer.compile_repeated_blocks(backend=backend)


def each_block(pipe, backend):
    for stack in ("transformer_blocks", "single_transformer_blocks"):
        blocks = getattr(pipe.transformer, stack, ())
        for i in range(len(blocks)):
            blocks[i] = torch.compile(blocks[i], backend=backend)


COMPILERS = {"whole": whole, "in place": in_place, "forward": forward_only, "repeated blocks": repeated_blocks,
             "each block": each_block}


def compiled_case(case, compiler, backend, warm=True):
    """A plain call, then two rounds of two guided calls and a plain one: results, and graphs made up to each."""
    pipe, graphs = case.pipe(layers=3 if "flux" not in case.name and case.name != "true-cfg" else 2), []
    COMPILERS[compiler](pipe, backend)
    results = []

    def call():
        results.append(case.run(pipe, num_inference_steps=4))
        graphs.append(backend.count)

    if warm:
        call()
    for _ in range(2):
        with emag.guide(pipe, *rules_for(case)) as run:
            call()
            call()
        call()
    return results, graphs, run.stats


FAST = (("sd3", "whole"), ("flux", "repeated blocks"), ("dit", "in place"))
COMPILED = [pytest.param(name, compiler, marks=() if (name, compiler) in FAST else pytest.mark.slow, id=f"{name}-{compiler}")
            for name, compiler in (*FAST, ("sd3", "forward"), ("sd3", "each block"), ("pixart", "whole"), ("flux", "whole"),
                                   ("true-cfg", "in place"))]


@pytest.mark.parametrize(("name", "compiler"), COMPILED)
def test_compiled_networks(name, compiler, fresh_dynamo):
    """Same images, same effect, and a bounded number of graphs: none are made once a guided and a plain call were."""
    case, backend = CASES[name], Graphs()
    results, graphs, compiled = compiled_case(case, compiler, backend)
    pipe = case.pipe(layers=2 if name in ("flux", "true-cfg") else 3)
    plain, (expected, stats) = case.run(pipe, num_inference_steps=4), guided(case, pipe, num_inference_steps=4)
    tolerance = 5e-4 if name == "pixart" else 1e-4
    assert all(close(results[i], plain, tolerance) for i in (0, 3, 6))
    assert all(close(results[i], expected, tolerance) for i in (1, 2, 4, 5))
    assert compiled.evaluations == stats.evaluations and compiled.picks == stats.picks
    assert compiled.effect == pytest.approx(stats.effect, rel=1e-2)
    assert 0 < graphs[0] < graphs[1] == graphs[2]
    assert graphs[2] - graphs[0] <= 30 and graphs[3] - graphs[2] <= 2
    assert graphs[3:] == [graphs[3]] * 4, "a second round compiled again"


def test_one_graph_for_a_whole_block_is_refused(fresh_dynamo):
    case, pipe = CASES["flux"], CASES["flux"].pipe(layers=1, single=2)
    few = {"num_inference_steps": 3, "seeds": (8,)}
    pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    plain = case.run(pipe, **few)
    before = snapshot(pipe)
    with pytest.raises(emag.Unsupported, match="fullgraph"):
        guided(case, pipe, EMAG(layers=(1,)), **few)
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe, **few), plain)


@pytest.mark.slow
def test_compiled_for_the_first_time_under_guidance(fresh_dynamo):
    case, backend = CASES["sd3"], Graphs()
    expected = guided(case, sd3(layers=3), num_inference_steps=4)[0]
    results, graphs, _ = compiled_case(case, "whole", backend, warm=False)
    assert close(results[0], expected, 1e-4)
    assert graphs[1] == graphs[0] and graphs[3:] == [graphs[3]] * 3


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_with_real_backends(backend, fresh_dynamo):
    case, pipe = CASES["flux"], CASES["flux"].pipe(layers=1, single=2)
    few = {"num_inference_steps": 3, "seeds": (8,)}
    expected = guided(case, pipe, EMAG(layers=(1,)), **few)[0]
    pipe.transformer.compile_repeated_blocks(backend=backend)
    try:
        case.run(pipe, **few)
    except torch._inductor.exc.InductorError as error:
        pytest.skip(f"inductor does not work here: {error}")
    out, stats = guided(case, pipe, EMAG(layers=(1,)), **few)
    assert close(out, expected, 1e-3) and stats.effect > 0


def test_a_plain_module_behind_a_compiled_one_is_guarded(fresh_dynamo):
    """A second pipeline that holds the plain module cannot run on a network whose compiled wrapper is in use."""
    case, pipe, errors = CASES["sd3"], sd3(layers=3), []
    other = sharing(pipe)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    expected = guided(case, pipe, EMAG())[0]

    def intrude():
        try:
            case.run(other)
        except emag.Busy as error:
            errors.append(error)

    for action in (intrude, in_thread(intrude)):
        with at_step(pipe, 4, action):
            assert torch.equal(guided(case, pipe, EMAG())[0], expected)
    assert len(errors) == 2


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
