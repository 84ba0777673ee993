"""Pipelines that start from an image, and networks whose text has an attention or a stream of its own kind."""

import inspect

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler

import emag
from emag.engine.network import read_network
from emag.hosts.defaults import entry
from emag.lab.forecast import image_tokens, text_tokens
from emag.methods.attention.nag import NAG
from emag.methods.attention.pladis import PLADIS
from emag.methods.emag.compat import Compat
from emag.methods.null.ag import AG
from emag.methods.null.tcfg import TCFG
from emag.methods.weak.pag import PAG
from emag.methods.weak.sag import SAG
from emag.methods.weak.seg import SEG
from emag.methods.weak.slg import SLG
from emag.methods.weak.tpg import TPG
from emag.testing.small_separate import FURTHER, MORE, auraflow, hunyuan, pictures, sana
from spy import attribute, changes, network_outputs, scheduler_steps, snapshot

ALL = pytest.mark.parametrize("case", MORE.values(), ids=MORE.keys())
# where the network, the layout of its calls or its x_t differs; the others differ in what the pipeline does around it
KINDS = pytest.mark.parametrize("case", [case for case in MORE.values() if case.name in (
    "sd3-inpaint-wide", "sd3-control", "sd3.5", "flux-img2img-cfg", "flux-fill", "auraflow", "hunyuan", "sana")],
    ids=lambda case: case.name)
MAPS = [case for case in MORE.values() if case.name != "sana"]
WITH_UNCOND = pytest.mark.parametrize("case", [c for c in MORE.values() if c.uncond],
                                      ids=[c.name for c in MORE.values() if c.uncond])
WITHOUT_UNCOND = pytest.mark.parametrize("case", [c for c in MORE.values() if not c.uncond],
                                         ids=[c.name for c in MORE.values() if not c.uncond])
LATE = pytest.mark.parametrize("name", [n for n in MORE if "img2img" in n or "inpaint" in n or "fill" in n])
WINDOW = emag.Window.progress(0, 0.2, 0.9)
SIZES = {"hunyuan": {"height": 64, "width": 96}, "sana": {"height": 32, "width": 64},
         "sd3-control": {"height": 8, "width": 16}}


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 2), "window": WINDOW, **more})


def weak_rule(case, **more):
    """EMAG, or skipped blocks where attention has no map."""
    return SLG(1.5, layers=(1,)) if case.name == "sana" else EMAG(**more)


def size_of(x):
    return x.abs().max()


def in_dtype(call, dtype):
    """The same arguments, their floats in `dtype`."""
    return {n: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for n, v in call.items()}


def rows_evaluated(pipe):
    """Rows that each block evaluates, counted from outside."""
    counts = {}

    def hook(index):
        def count(module, args, kwargs):
            x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            counts[index] = counts.get(index, 0) + len(x)
        return count

    for block in read_network(pipe.transformer).blocks:
        block.module.register_forward_pre_hook(hook(block.index), with_kwargs=True)
    return counts


# 1, 5: nothing stays


@ALL
def test_neutral_is_bit_identical_and_undone(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    for rules in ((), (emag.EMAG(1.0, layers=(1,)),)):
        with emag.guide(pipe, *rules):
            assert torch.equal(case.run(pipe), plain)
        assert changes(before, snapshot(pipe)) == []


@KINDS
def test_an_exception_leaves_nothing(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    counted = []

    def fail(*args):
        counted.append(1)
        if len(counted) == 6:
            raise KeyboardInterrupt

    handle = read_network(pipe.transformer).blocks[-1].module.register_forward_pre_hook(fail)
    with emag.guide(pipe, weak_rule(case)):
        with pytest.raises(KeyboardInterrupt):
            case.run(pipe)
        handle.remove()
        assert not torch.equal(case.run(pipe), plain)
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)
    assert changes(before, snapshot(pipe)) == []


# 2: EMAG acts, at the planned cost


@pytest.mark.parametrize("case", [*MAPS, *FURTHER.values()], ids=[case.name for case in (*MAPS, *FURTHER.values())])
@pytest.mark.parametrize("variant", ["query", "map"])
def test_emag_acts_as_planned(case, variant):
    pipe = case.pipe()
    plain, counts = case.run(pipe), rows_evaluated(pipe)
    with emag.guide(pipe, EMAG(variant=variant)) as run:
        assert not torch.allclose(case.run(pipe), plain, atol=1e-3)
    assert run.stats.evaluations == run.stats.planned == sum(counts.values()) / 2
    assert run.stats.effect > 1e-3
    assert sum(effect is not None for effect in run.stats.effects) >= 3


# 3: a resumed pass equals a full one


def blocks():
    """Every block of every network; one where only the pipeline is another."""
    depths = {"hunyuan": 6, "auraflow": 4, "sd3.5": 4, "sd3-control": 4, "flux-control": 5}
    return [pytest.param(case, block, id=f"{case.name}-{block}") for case in MAPS
            for block in range(depths.get(case.name, 0))] + [
        pytest.param(case, 2, id=f"{case.name}-2") for case in MAPS if case.name not in depths]


@pytest.mark.parametrize(("case", "block"), blocks())
def test_a_resumed_weak_pass_equals_the_full_one(case, block):
    pipe, made = case.pipe(), []
    for resume in (True, False):
        with network_outputs(pipe) as seen, emag.guide(pipe, EMAG(layers=(block,), compat=Compat(resume=resume))) as run:
            case.run(pipe)
        made.append((seen, run.stats.evaluations))
    for resumed, full in zip(made[0][0], made[1][0], strict=True):
        assert size_of(resumed - full) < 2e-4 * size_of(full)
    passes = sum(effect is not None for effect in run.stats.effects)
    assert made[1][1] - made[0][1] == passes * block > (-1 if block == 0 else 0)


@pytest.mark.parametrize(("name", "block"), [*(("hunyuan", i) for i in range(6)), *(("sana", i) for i in range(4))])
def test_a_resumed_pass_without_a_block_is_the_network_with_that_block_doing_nothing(name, block):
    """HunyuanDiT's long skips included: later blocks read what earlier ones returned."""
    case, seen = MORE[name], []
    pipe = case.pipe()
    original, network = pipe.transformer.forward, read_network(pipe.transformer)

    def forward(*args, **kwargs):
        answer = original(*args, **kwargs)
        seen.append((args, kwargs, answer[0].clone()))
        return answer

    with attribute(pipe.transformer, "forward", forward), emag.guide(pipe, SLG(2.0, layers=(block,))) as run:
        case.run(pipe, (8,), num_inference_steps=3)
    weak = [one for one in seen if len(one[2]) == 1]
    assert len(weak) == 3 and run.stats.evaluations == 3 * (3 * network.depth - block - 1)
    with attribute(network.blocks[block].module, "forward", lambda hidden_states, *args, **more: hidden_states):
        for args, kwargs, got in weak:
            expected = original(*args, **kwargs)[0]
            assert size_of(got - expected) < 2e-4 * size_of(expected)


# 4: an image alone


@ALL
def test_an_image_is_the_same_alone(case):
    made, dtype = [], torch.float64 if case.name == "sana" else torch.float32  # linear attention divides by small sums
    for seeds in ((8, 9), (9,)):
        pipe = case.pipe().to(dtype)
        with emag.guide(pipe, weak_rule(case)):
            made.append(pipe(**in_dtype(case.call(seeds), dtype)).images)
    assert size_of(made[0][1:] - made[1]) < 2e-4 * max(1.0, float(size_of(made[1])))


# 6: what the scheduler gets


def channels_of(case):
    return 4 if case.name == "hunyuan" else None


@WITH_UNCOND
def test_the_scheduler_gets_exactly_our_cfg(case):
    pipe, rules = case.pipe(), (weak_rule(case), emag.CFG(3.0))
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        case.run(pipe, **{case.scale: 7.0})
    raw = [out[:, :channels_of(case)] for out in raw]
    for effect, got in zip(run.stats.effects, given, strict=True):
        if run.host.doubled:
            (uncond, cond), weak = raw.pop(0).chunk(2), raw.pop(0) if effect is not None else None
        else:
            cond, weak, uncond = raw.pop(0), raw.pop(0) if effect is not None else None, raw.pop(0)
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        assert torch.equal(got[:, :channels_of(case)], pred + 2.0 * (pred - uncond))
    assert raw == []


@WITH_UNCOND
def test_our_cfg_is_the_hosts_own(case):
    pipe = case.pipe()
    own, off = (case.run(pipe, **{case.scale: scale}) for scale in (3.0, 1.0))
    with emag.guide(pipe, emag.CFG(3.0)):
        ours = case.run(pipe, **{case.scale: 7.0})
    with emag.guide(pipe, emag.CFG(1.0)):
        one = case.run(pipe)
    assert size_of(ours - own) < 3e-4 * size_of(own) and size_of(ours - off) > 1e-2
    if case.name == "sd3-control":  # the ControlNet's own batch is doubled or not
        assert size_of(one - off) < 1e-4 * size_of(off)
    else:
        assert torch.equal(one, off)


@WITHOUT_UNCOND
def test_a_combiner_without_unconditional_rows_is_refused(case):
    pipe, calls = case.pipe(), []
    pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(1))
    for rule in (emag.CFG(3.0), AG(0.9)):
        with pytest.raises(emag.BadValue, match="unconditional"), emag.guide(pipe, rule):
            case.run(pipe)
    assert calls == []


# 7: other methods


RULES = {"pag": lambda: PAG(2.0, layers=(1,)), "slg": lambda: SLG(2.0, layers=(1,)),
         "seg": lambda: SEG(2.0, layers=(1,), sigma=1e7), "tpg": lambda: TPG(2.0, layers=(2,)),
         "sag": lambda: SAG(1.5, layers=(1,), kernel=3, threshold=0.8),
         "apg": lambda: emag.APG(3.0, norm_threshold=2.5, momentum=-0.5)}


@KINDS
@pytest.mark.parametrize("name", RULES)
def test_other_methods_act_or_say_why_not(case, name):
    pipe = case.pipe()
    plain, rule = case.run(pipe), RULES[name]()
    reason = "rows" if name == "apg" and not case.uncond else ""
    if case.name == "sana" and name in ("pag", "seg", "sag"):
        reason = "linear"
    if name == "tpg" and not read_network(pipe.transformer).placed:
        reason = "do not see where tokens are"
    if reason:
        with pytest.raises((emag.Unsupported, emag.BadValue), match=reason), emag.guide(pipe, rule):
            case.run(pipe)
        return
    with emag.guide(pipe, rule) as run:
        made = case.run(pipe)
    assert made.isfinite().all() and size_of(made - plain) > 1e-3
    assert run.stats.evaluations == run.stats.planned


@WITH_UNCOND
def test_rules_on_the_unconditional_prediction_act(case):
    pipe = case.pipe()
    plain = case.run(pipe)
    for rules in ((TCFG(),), (AG(0.5), emag.CFG(4.0))):
        with emag.guide(pipe, *rules):
            assert not torch.allclose(case.run(pipe), plain, atol=1e-4)


def test_linear_attention_is_refused_before_anything_is_evaluated():
    pipe, calls = sana(), []
    pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(1))
    before = snapshot(pipe)
    for rule in (emag.EMAG(), EMAG(variant="map"), SEG(2.0, layers=(1,), sigma=1e7), PLADIS(cross=False)):
        says = "needs text in the attention" if isinstance(rule, PLADIS) else "SanaTransformer2DModel is linear"
        with pytest.raises(emag.Unsupported, match=says), emag.guide(pipe, rule):
            MORE["sana"].run(pipe)
    assert calls == [] and changes(before, snapshot(pipe)) == []


@pytest.mark.parametrize("name", ["sana", "hunyuan"])
def test_the_cross_attention_can_be_changed(name):
    case = MORE[name]
    pipe = case.pipe()
    plain = case.run(pipe)
    for rule in (PLADIS(), NAG()):
        with emag.guide(pipe, rule):
            assert not torch.allclose(case.run(pipe), plain, atol=1e-4)


# 8: shapes and dtypes


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_image_that_is_not_square(case, dtype):
    pipe = case.pipe().to(dtype)
    call = in_dtype(case.call((8,), **SIZES.get(case.name, {"height": 8, "width": 12})), dtype)
    rules = (SLG(1.3, layers=(1,)),) if case.name == "sana" else (EMAG(), SEG(1.3, layers=(2,), sigma=1.0))
    with emag.guide(pipe, *rules) as run:
        made = pipe(**call).images
    assert made.isfinite().all() and run.stats.effect > 0 and run.stats.evaluations == run.stats.planned


# 9: text rows


@pytest.mark.parametrize("block", range(4))
@pytest.mark.parametrize("variant", ["query", "map"])
@pytest.mark.parametrize("name", ["auraflow", "sd3.5"])
def test_text_rows_are_untouched_by_the_attention(name, block, variant):
    """AuraFlow's eight register tokens count as text, in its joint blocks and where one stream holds both."""
    case, store = MORE[name], []
    pipe = case.pipe()
    one = read_network(pipe.transformer).blocks[block]
    one.attention.register_forward_hook(lambda module, args, out: store.append(out))
    with emag.guide(pipe, EMAG(layers=(block,), variant=variant)) as run:
        case.run(pipe, (8,))
    compared = 0
    for effect in run.stats.effects:
        clean, weak = apart(store.pop(0)), apart(store.pop(0)) if effect is not None else None
        if weak is not None:
            assert size_of(weak[1] - clean[1][1:]) < 1e-4 * size_of(clean[1])
            assert size_of(weak[0] - clean[0][1:]) > 1e-3
            compared += 1
    assert compared >= 3 and store == []


def apart(out):
    """Image and text rows of an attention's output; 16 image tokens."""
    return out if isinstance(out, tuple) else (out[:, -16:], out[:, :-16])


def test_the_second_attention_of_sd35_stays():
    """`attn2` sees image tokens alone; what is tapped is the joint one."""
    pipe = MORE["sd3.5"].pipe()
    network = read_network(pipe.transformer)
    assert [getattr(block.module, "attn2", None) is not None for block in network.blocks] == [True, True, False, False]
    assert all(block.attention is block.module.attn for block in network.blocks)


# late starts, and hosts that make two untagged calls


@LATE
def test_a_window_counts_the_steps_that_are_run(name):
    case = MORE[name]
    pipe = case.pipe()
    with emag.guide(pipe, EMAG()) as run:
        case.run(pipe, num_inference_steps=20, strength=0.5)
    path = tuple(float(sigma) for sigma in pipe.scheduler.sigmas[10:20])
    assert run.stats.steps == 10 and len(run.stats.effects) == 10
    assert [effect is not None for effect in run.stats.effects] == [p == "apply" for p in WINDOW.phases(path)]


@LATE
def test_a_late_start_that_leaves_no_weak_pass_is_refused_before_the_run(name):
    case, calls = MORE[name], []
    pipe = case.pipe()
    pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(1))
    with pytest.raises(emag.BadValue, match="no weak pass"), emag.guide(pipe, EMAG()):
        case.run(pipe, num_inference_steps=8, strength=0.125)
    assert calls == []


@LATE
@pytest.mark.parametrize("strength", [0.3, 0.61, 1.0])
def test_the_steps_known_before_a_run_are_those_made(name, strength):
    case = MORE[name]
    pipe = case.pipe()
    with emag.guide(pipe, SLG(1.2, layers=(1,))) as run:
        case.run(pipe, (8,), num_inference_steps=7, strength=strength)
        call = case.call((8,), num_inference_steps=7, strength=strength)
    assert run.host.steps(call) == run.stats.steps


def test_a_late_start_with_a_scheduler_that_evaluates_twice():
    pipe = MORE["sd3-img2img"].pipe()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    with emag.guide(pipe, EMAG()) as run:
        MORE["sd3-img2img"].run(pipe, num_inference_steps=10, strength=0.5)
    assert run.stats.steps == len(pipe.scheduler.timesteps[pipe.scheduler.begin_index:]) == 9
    assert run.stats.evaluations == run.stats.planned and run.stats.effect > 0


def test_further_channels_are_no_part_of_x():
    """An inpainting network's mask and picture: what rules and perturbations get and change is x_t alone."""
    network = read_network(MORE["sd3-inpaint-wide"].pipe().transformer)
    whole = torch.arange(33.0).reshape(1, 33, 1, 1).expand(2, 33, 4, 4)
    x = network.latents(whole)
    assert torch.equal(x, whole[:, :16]) and torch.equal(network.with_latents(whole, x), whole)
    assert torch.equal(network.with_latents(whole, x + 1)[:, 16:], whole[:, 16:])
    packed = read_network(MORE["flux-fill"].pipe().transformer)
    assert packed.latents(torch.zeros(2, 16, 36)).shape == (2, 16, 16)
    assert read_network(auraflow().transformer).latents(whole[:, :4]).shape == (2, 4, 4, 4)


def test_forecasts_count_the_tokens():
    assert image_tokens(read_network(sana().transformer), 64, 96) == 2 * 3
    assert image_tokens(read_network(hunyuan().transformer), 64, 96) == 4 * 6
    assert text_tokens(read_network(auraflow().transformer), None) == 264
    assert text_tokens(read_network(hunyuan().transformer), None) == 0


def test_two_untagged_calls_with_one_text_are_told_apart():
    case = MORE["flux-img2img-cfg"]
    pipe, call = case.pipe(), case.call()
    same = {name: call[name.removeprefix("negative_")] for name in call if name.startswith("negative_prompt_embeds")}
    same |= {"negative_pooled_prompt_embeds": call["pooled_prompt_embeds"]}
    off = case.run(pipe, true_cfg_scale=1.0)
    with emag.guide(pipe, emag.CFG(5.0)) as run:
        assert size_of(case.run(pipe, **same) - off) < 1e-4
    assert run.stats.steps == 6


def test_a_text_changed_on_the_way_is_still_conditional():
    case = MORE["flux-img2img-cfg"]
    pipe = case.pipe()

    def change(pipe, index, timestep, values):
        return {"prompt_embeds": values["prompt_embeds"] + 0.1}

    with emag.guide(pipe, EMAG(), emag.CFG(4.0)) as run:
        case.run(pipe, callback_on_step_end=change, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert run.stats.steps == 6 and run.stats.evaluations == run.stats.planned


# prompts as conditions, defaults


ANSWERS = {"auraflow": ("encoder_hidden_states", None), "sana": ("encoder_hidden_states", "encoder_attention_mask"),
           "hunyuan": ("encoder_hidden_states", "text_embedding_mask")}


@pytest.mark.parametrize("name", ANSWERS)
def test_prompts_are_encoded_as_the_host_does(name):
    pipe, asked = MORE[name].pipe(), []
    signature = inspect.signature(pipe.encode_prompt)
    states, mask = torch.ones(1, 3, 12), torch.ones(1, 3)

    def encode_prompt(*args, **kwargs):
        asked.append(signature.bind(*args, **kwargs).arguments)
        return (states, None, mask, None) if name == "hunyuan" else (states, mask, None, None)

    pipe.encode_prompt = encode_prompt
    network = read_network(pipe.transformer)
    found = network.backbone.encode(pipe, ["a fox"])
    text, masked = ANSWERS[name]
    assert found[text] is states and (masked is None or found[masked] is mask)
    assert all(one["prompt"] == ["a fox"] and one["do_classifier_free_guidance"] is False for one in asked)
    assert set(found) <= set(network.backbone.per_row)


@pytest.mark.parametrize("make", [auraflow, hunyuan, sana])
def test_defaults_say_where_they_come_from(make):
    name = type(make().transformer).__name__
    assert {"scale", "layers", "window"} == set(entry("emag", (name,)).values)
    assert any(word in entry("emag", (name,)).source for word in ("untested", "none works"))


def test_pictures_are_reproducible():
    assert torch.equal(pictures((8, 9))[1:], pictures((9,)))
