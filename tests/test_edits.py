"""Pipelines that edit pictures, start from one or follow one: the laws of `test_backbones_joint`, and those of reference
images, whose tokens stand behind those of the image in the making and stay as they are."""

import re
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch

import emag
from emag.core import Rows
from emag.engine import arguments, step_rules, trajectory
from emag.engine.network import read_network
from emag.families import HOSTS
from emag.hosts.lookup import host_of
from emag.hosts.pipeline import _bind
from emag.maths.attention import Attention
from emag.maths.layout import unpack
from emag.methods import METHODS as C
from emag.methods.attention.nag import NormalizedAttention
from emag.methods.common.token_maps import Cells, token_maps
from emag.methods.emag.compat import Compat
from emag.testing import small_control, small_edits, small_longcat
from spy import attribute, changes, network_outputs, scheduler_steps, snapshot
from test_backbones_separate import in_dtype, rows_evaluated, size_of
from tiny import TEXT, noise

REFERENCES = small_edits.MORE | {"longcat-edit": small_longcat.MORE["longcat-edit"]}
MORE = REFERENCES | small_control.MORE
SCALE, WINDOW = 4.0, emag.Window.progress(0, 0.2, 0.9)
KINDS = ("qwen-edit-2511", "qwen-layered", "kontext-cfg", "klein-edit",
         "longcat-edit")  # where the network, or its sequence, is another


def cases(names=tuple(MORE), uncond=None):
    kept = [MORE[name] for name in names if uncond is None or MORE[name].uncond == uncond]
    return pytest.mark.parametrize("case", kept, ids=[case.name for case in kept])


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 3), "window": WINDOW, **more})


def weak_rule(case, **more):
    """EMAG, or skipped blocks where attention has no map."""
    return C["slg"](1.5, layers=(1,)) if case.name == "sana-control" else EMAG(**more)


def far(made, plain):
    return float((made - plain).norm() / plain.norm())


def cast(case, dtype):
    """The same case, its tensors in `dtype`."""
    return replace(case, call=lambda seeds=(8, 9), **more: in_dtype(case.call(seeds, **more), dtype))


# the laws of every pipeline


def of_network(names):
    """Without what an encoder keeps of its latest call."""
    return [name for name in names if not name.startswith("vae.")]


@cases()
def test_neutral_is_bit_identical_and_undone(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    with emag.guide(pipe, emag.EMAG(1.0, layers=(1,)), emag.CADS(0.3, tau1=1.0, tau2=1.0)):
        assert torch.equal(case.run(pipe), plain)
    with emag.guide(pipe, weak_rule(case)):
        assert not torch.equal(case.run(pipe), plain)
    assert of_network(changes(before, snapshot(pipe), own=False)) == []
    assert torch.equal(case.run(pipe), plain) and of_network(changes(before, snapshot(pipe))) == []


@cases()
def test_a_weak_branch_acts_as_planned(case):
    """Late starts count their own steps: of eight six are left."""
    pipe = case.pipe()
    plain, counts = case.run(pipe), rows_evaluated(pipe)
    with emag.guide(pipe, weak_rule(case)) as run:
        made = case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == sum(counts.values()) / 2 > run.stats.clean
    assert run.stats.effect > 1e-3 and far(made, plain) > 1e-3
    asked = run.host.steps(_bind(type(pipe).__call__, pipe, (), case.call()))
    assert run.stats.steps == asked == 6 and sum(effect is not None for effect in run.stats.effects) >= 3


@cases()
def test_an_image_is_the_same_alone(case):
    made, dtype = [], torch.float64 if case.name == "sana-control" else torch.float32
    for seeds in ((8, 9), (9,)):
        pipe = case.pipe().to(dtype)
        with emag.guide(pipe, weak_rule(case)):
            made.append(cast(case, dtype).run(pipe, seeds))
    assert len(made[0]) == 2 and size_of(made[0][1:] - made[1]) < 5e-4 * max(1.0, float(size_of(made[1])))


def blocks():
    """Every block where the sequence, or what is added to it, is another; one where only the pipeline is."""
    depths = {"qwen-edit-2511": 4, "kontext": 5, "klein-edit": 5, "longcat-edit": 5, "qwen-control": 4, "hunyuan-control": 6}
    return [pytest.param(MORE[name], block, id=f"{name}-{block}") for name, depth in depths.items() for block in range(depth)
            ] + [pytest.param(case, 2, id=f"{case.name}-2") for case in MORE.values()
                 if case.name not in (*depths, "sana-control")]


@pytest.mark.parametrize(("case", "block"), blocks())
def test_a_resumed_weak_pass_equals_the_full_one(case, block):
    pipe, made = case.pipe(), []
    for resume in (True, False):
        with network_outputs(pipe) as seen, emag.guide(pipe, EMAG(layers=(block,), compat=Compat(resume=resume))) as run:
            case.run(pipe, num_inference_steps=4)
        made.append((seen, run.stats.evaluations))
    for resumed, full in zip(made[0][0], made[1][0], strict=True):
        assert size_of(resumed - full) < 2e-4 * size_of(full)
    passes = sum(effect is not None for effect in run.stats.effects)
    assert passes and made[1][1] - made[0][1] == block * passes


# what the scheduler gets


def traced(case, pipe, *rules, **call):
    """Per step the conditional, weak and unconditional predictions, None where not made, and what the scheduler got."""
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        case.run(pipe, **call)
    steps, null = [], run.stats.clean > run.stats.steps * run.stats.depth
    for effect, got in zip(run.stats.effects, given, strict=True):
        got = got[:, :4] if case.name == "hunyuan-control" else got
        clean, weak = (raw.pop(0)[:, :got.shape[1]] if made else None for made in (True, effect is not None))
        cond, uncond = (clean, raw.pop(0)[:, :got.shape[1]] if null else None) if not run.host.doubled else (
            (clean.chunk(2)[1], clean.chunk(2)[0]) if null else (clean, None))
        steps.append((cond, weak, uncond, got))
    assert raw == [] and sum(weak is not None for _, weak, _, _ in steps) > 2
    return steps


@cases(uncond=True)
def test_the_scheduler_gets_exactly_our_cfg(case):
    for cond, weak, null, got in traced(case, case.pipe(), weak_rule(case), emag.CFG(3.0), **{case.scale: 33.0}):
        pred = cond if weak is None else cond + 0.5 * (cond - weak)
        torch.testing.assert_close(got, null + 3.0 * (pred - null), atol=1e-5, rtol=1e-5)


def by_host(case, pred, null):
    """How the pipeline itself combines."""
    made = null + SCALE * (pred - null)
    if not case.name.startswith("qwen") or case.name == "qwen-layered":
        return made
    return made * (pred.norm(dim=-1, keepdim=True) / made.norm(dim=-1, keepdim=True))


@cases(uncond=True)
def test_without_a_combiner_the_host_combines_the_moved_prediction(case):
    for cond, weak, null, got in traced(case, case.pipe(), weak_rule(case), **{case.scale: SCALE}):
        assert torch.equal(got, by_host(case, cond if weak is None else cond + 0.5 * (cond - weak), null))


@cases((*KINDS, "kontext", "flux2-edit", "klein-kv", "qwen-control", "hunyuan-control", "chroma-inpaint"))
def test_without_unconditional_rows_the_scheduler_gets_the_moved_prediction(case):
    off = {case.scale: 1.0} if case.uncond else {}
    for cond, weak, null, got in traced(case, case.pipe(), weak_rule(case), **off):
        assert null is None and torch.equal(got, cond if weak is None else cond + 0.5 * (cond - weak))


@cases(uncond=True)
def test_cfg_at_1_is_the_pipeline_without_guidance(case):
    pipe = case.pipe()
    off = case.run(pipe, **{case.scale: 1.0})
    with emag.guide(pipe, emag.CFG(1.0)) as run:
        one = case.run(pipe)
    doubled = case.name in ("hunyuan-control", "sana-control")  # the ControlNet's own batch is doubled or not
    assert far(one, off) < 1e-5 if doubled else torch.equal(one, off)
    assert run.stats.evaluations == run.stats.planned == run.stats.steps * run.stats.depth


# reference images


PLACES = {"qwen-edit": ((2, 3, 2), 6, 12), "qwen-edit-2511": ((2, 3, 2), 6, 12), "qwen-edit-plus": ((2, 3, 2), 6, 10 + 16),
          "qwen-edit-inpaint": ((3, 4, 2), 12, 12), "qwen-layered": ((2, 2, 2, 2), 8, 4), "kontext": ((4, 4, 2), 16, 8),
          "kontext-cfg": ((4, 4, 2), 16, 8), "kontext-inpaint": ((2, 4, 2), 8, 8), "flux2-edit": ((4, 4, 2), 16, 32 + 16),
          "klein-edit": ((4, 4, 2), 16, 32 + 16), "klein-inpaint": ((4, 4, 2), 16, 16),
          "longcat-edit": ((2, 8, 2), 16, 16)}
"""Grid of the image in the making, its tokens, and those of its reference images."""


@pytest.fixture
def seen(monkeypatch):
    """The steps, and of each tapped attention the image queries and the reference tokens."""
    steps, queries, step, image_queries = [], set(), trajectory.Trajectory.step, Attention.image_queries

    def noted_step(*args, **kwargs):
        steps.append(step(*args, **kwargs))
        return steps[-1]

    def noted_queries(call):
        found = image_queries(call)
        queries.add((found.shape[2], call.references))
        return found

    monkeypatch.setattr(trajectory.Trajectory, "step", noted_step)
    monkeypatch.setattr(Attention, "image_queries", noted_queries)
    return steps, queries


@cases(REFERENCES)
def test_the_image_in_the_making_is_what_the_scheduler_steps(case, seen):
    pipe, (steps, queries) = case.pipe(), seen
    latents, inputs, step = [], set(), pipe.scheduler.step

    def noted(out, t, x, **more):
        latents.append(x)
        return step(out, t, x, **more)

    pipe.transformer.register_forward_pre_hook(lambda m, args, kwargs: inputs.add(kwargs["hidden_states"].shape[1]),
                                               with_kwargs=True)
    with attribute(pipe.scheduler, "step", noted), emag.guide(pipe, EMAG()):
        case.run(pipe)
    grid, tokens, references = PLACES[case.name]
    steps = [one for one in steps if one.x.numel()]
    assert {one.grid for one in steps} == {grid} and queries == {(tokens, references)} and inputs == {tokens + references}
    for one, x in zip(steps, latents, strict=True):
        assert torch.equal(one.x, x) and unpack(one.x, one).shape[-2:] == tuple(2 * side for side in grid[-3:-1])


@cases(KINDS)
def test_rules_get_predictions_of_the_image_in_the_making(case, monkeypatch):
    """Norms and projections would see the references otherwise."""
    shapes, combine = set(), step_rules.combine

    def noted(rules, pred, branches, step, memory):
        shapes.update(value.shape == step.x.shape for value in (pred, *branches.values()))
        return combine(rules, pred, branches, step, memory)

    monkeypatch.setattr(step_rules, "combine", noted)
    pipe = case.pipe()
    with emag.guide(pipe, EMAG(), emag.APG(3.0, norm_threshold=2.5, momentum=-0.5)):
        case.run(pipe)
    assert shapes == {True}


@cases(KINDS)
@pytest.mark.parametrize("method", ["emag", "pag", "seg"])
def test_the_attention_of_text_and_references_is_untouched(case, method):
    pipe = case.pipe()
    _, tokens, references = PLACES[case.name]
    for block in (1, read_network(pipe.transformer).depth - 1):  # in the second, text and pictures may be one stream
        rule = {"emag": EMAG(layers=(block,)), "pag": C["pag"](1.5, layers=(block,)),
                "seg": C["seg"](1.5, layers=(block,), sigma=1.0)}[method]
        seen, attention = [], read_network(pipe.transformer).blocks[block].attention
        attention.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out))
        with emag.guide(pipe, rule) as run:
            case.run(pipe, num_inference_steps=3, **({case.scale: 1.0}))
        first = next(i for i, effect in enumerate(run.stats.effects) if effect is not None)
        clean, weak = (apart(out, references) for out in seen[first:first + 2])
        for kind in ("text", "references"):
            torch.testing.assert_close(weak[kind], clean[kind], atol=1e-4, rtol=1e-4)
        assert clean["references"].shape[1] == references and clean["image"].shape[1] == tokens
        assert far(weak["image"], clean["image"]) > 1e-3


def apart(out, references):
    """Attention output of each kind of tokens."""
    pictures, text = out if isinstance(out, tuple) else (out[:, TEXT:], out[:, :TEXT])
    return {"text": text, "image": pictures[:, :-references], "references": pictures[:, -references:]}


@pytest.mark.parametrize(("name", "block"), [("qwen-edit", 1), ("kontext", 1), ("klein-edit", 1), ("klein-edit", 4),
                                              ("longcat-edit", 1), ("longcat-edit", 4)])
def test_only_tokens_of_the_image_in_the_making_are_shuffled(name, block):
    case, seen = MORE[name], []
    pipe, (_, tokens, _) = case.pipe(), PLACES[name]
    text = TEXT if name == "klein-edit" and block == 4 else 0
    module = read_network(pipe.transformer).blocks[block].module
    module.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True)
    with emag.guide(pipe, C["tpg"](1.5, layers=(block,))):
        case.run(pipe, num_inference_steps=1)
    clean, weak = seen[:2]
    own = slice(text, text + tokens)
    for part in (slice(0, text), slice(text + tokens, None)):
        assert torch.equal(weak[:, part], clean[:, part])
    assert not torch.equal(weak[:, own], clean[:, own])
    assert torch.equal(weak[:, own].sum(2).sort(1).values, clean[:, own].sum(2).sort(1).values)


@cases(KINDS)
def test_branches_of_one_batched_pass_do_not_mix(case):
    """PAG and SEG share a pass of twice the rows; what they add to one step is the sum of what each adds alone."""
    pipe, moved = case.pipe(), []
    off = {"num_inference_steps": 1, case.scale: 1.0}
    rules = (C["pag"](1.5, layers=(1,)), C["seg"](1.5, layers=(1,), sigma=1.0))
    for chosen in ((), rules[:1], rules[1:], rules):
        with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *chosen):
            case.run(pipe, **off)
        moved.append(given[0] - raw[0][:, :given[0].shape[1]])
    assert len(raw) == 2 and len(raw[1]) == 2 * len(raw[0]) and size_of(moved[0]) == 0
    torch.testing.assert_close(moved[3], moved[1] + moved[2], atol=1e-3, rtol=1e-3)
    assert min(size_of(moved[1]), size_of(moved[2])) > 1e-2


WEAK = {"map": EMAG(variant="map"), "image": EMAG(variant="image"), "slg": C["slg"](1.5, layers=(1,)),
        "sag": C["sag"](1.5, layers=(1,), kernel=3, threshold=0.8), "s2": C["s2"](1.5, layers=(1,)),
        "tpg": C["tpg"](1.5, layers=(3,)), "negative": C["negative"](1.5), "nag": C["nag"](3.0, alpha=0.5, sigma_end=0.1,
                                                                                          layers=(1,), negative="negative")}


@cases(KINDS)
@pytest.mark.parametrize("name", WEAK)
def test_other_methods_act_or_say_why_not(case, name):
    pipe = case.pipe()
    few = {"num_inference_steps": 4}
    plain = case.run(pipe, (8,), **few)
    with emag.guide(pipe, WEAK[name], conditions={"negative": {"encoder_hidden_states": noise(70, 1, 3, 12)}}) as run:
        if (case.name, name) == ("qwen-layered", "sag"):
            with pytest.raises(emag.Unsupported, match="needs images"):
                case.run(pipe, (8,), **few)
            return
        made = case.run(pipe, (8,), **few)
    assert run.stats.evaluations == run.stats.planned
    assert made.isfinite().all() and far(made, plain) > 1e-4


def test_a_changed_x_t_leaves_the_references_as_they_are(monkeypatch):
    case, inputs = MORE["kontext"], []
    pipe, (_, tokens, _) = case.pipe(), PLACES["kontext"]
    evaluated = arguments.Arguments.evaluated

    def spied(call, forward):
        inputs.append(call.sample)
        return evaluated(call, forward)

    monkeypatch.setattr(arguments.Arguments, "evaluated", spied)
    with emag.guide(pipe, WEAK["sag"]) as run:
        case.run(pipe)
    references = inputs[0][:, tokens:]
    for effect in run.stats.effects:
        clean, weak = inputs.pop(0), inputs.pop(0) if effect is not None else None
        assert torch.equal(clean[:, tokens:], references) and clean.shape[1] > tokens
        assert weak is None or (torch.equal(weak[:, tokens:], references) and not torch.equal(weak, clean))
    assert inputs == []


@cases(("qwen-edit-2511", "klein-edit", "longcat-edit"))
def test_a_further_condition_is_evaluated_as_the_pipeline_does(case):
    """The negative prompt once more, as a condition: the unconditional prediction of the pipeline."""
    pipe = case.pipe()
    given = {"encoder_hidden_states": noise(900, 1, TEXT, 12)}
    if case.name.startswith("qwen"):
        given["encoder_hidden_states_mask"] = torch.tensor([[True, True, True, True, False]])
    with network_outputs(pipe) as raw, emag.guide(pipe, C["negative"](1.5), conditions={"negative": given}):
        case.run(pipe)
    for cond, weak, null in zip(raw[::3], raw[1::3], raw[2::3], strict=True):
        torch.testing.assert_close(weak, null, atol=1e-5, rtol=1e-5)
        assert far(weak, cond) > 1e-2


@cases(KINDS)
def test_half_precision(case):
    pipe = case.pipe().to(torch.bfloat16)
    with emag.guide(pipe, EMAG(), emag.CFG(SCALE)) as run:
        assert cast(case, torch.bfloat16).run(pipe, (8,), num_inference_steps=3).isfinite().all()
    assert run.stats.effect > 0


def test_a_call_without_a_picture_has_no_references():
    case = MORE["kontext"]
    pipe = case.pipe()
    call = {name: value for name, value in case.call().items() if name != "image"}
    plain = pipe(**call).images
    with emag.guide(pipe, EMAG()) as run:
        made = pipe(**call).images
    assert far(made, plain) > 1e-3 and run.stats.evaluations == run.stats.planned


def test_x_t_is_put_back_before_the_references():
    network = replace(read_network(MORE["kontext"].pipe().transformer), references=8)
    whole = noise(1, 2, 24, 16)
    x = network.latents(whole)
    assert torch.equal(x, whole[:, :16]) and torch.equal(network.with_latents(whole, x), whole)
    changed = network.with_latents(whole, x + 1)
    assert torch.equal(changed[:, :16], x + 1) and torch.equal(changed[:, 16:], whole[:, 16:])


@pytest.mark.parametrize("ids", [[(1, 2, 3)] * 2, [[(1, 2, 3)]] * 2, [[(1, 2, 3), (1, 4, 5), (1, 1, 2)]] * 2], ids=str)
def test_sizes_of_qwen_images(ids):
    """A size for each image, or sizes for each, of which the first is the one in the making."""
    network = read_network(MORE["qwen-control"].pipe().transformer)
    found = network.references_in({"img_shapes": ids})
    assert found == (22 if len(ids[0]) == 3 and isinstance(ids[0], list) else 0)
    assert replace(network, references=found).grid({"img_shapes": ids}) == (2, 3, 2)


# attention with references, as functions


def with_references(dtype=torch.float64):
    """Text, image and references of 4, 6 and 5 tokens; and the same without the references' keys."""
    q, k, v = (noise(seed, 2, 2, 15, 8).to(dtype) for seed in (1, 2, 3))
    call = Attention(q, k, v, slice(4, 10), references=5)
    return call, Attention(q[:, :, :10], k[:, :, :10], v[:, :, :10], slice(4, 10))


def test_references_are_no_text_in_s_cfg():
    call, without = with_references()
    torch.testing.assert_close(token_maps(call, Cells(2, 3)), token_maps(without, Cells(2, 3)))


def test_nag_keeps_the_references_beside_its_negative_text():
    """With the positive text as the negative one, nothing moves."""
    call, _ = with_references()
    same = replace(call, k=call.k[:1].repeat(2, 1, 1, 1), v=call.v[:1].repeat(2, 1, 1, 1))
    state = NormalizedAttention((0,), False, 5.0, 2.5, 0.5, "l1", 1e-6, 0.0, None).start((1.0,), None)
    state.begin(0)

    def sdpa(q):
        return torch.nn.functional.scaled_dot_product_attention(q, same.k, same.v)

    out = state.strengthen(0, same, sdpa, Rows(slice(1, 2), slice(0, 1), 2))
    torch.testing.assert_close(out, sdpa(same.q))
    assert same.pictures == slice(4, 15) and same.has_text and not replace(same, image=slice(0, 10)).has_text


# what cannot work


@cases([name for name in REFERENCES if name.startswith(("qwen-edit", "longcat"))])
def test_texts_that_go_with_a_picture_are_refused(case):
    pipe = case.pipe()
    before = snapshot(pipe)
    with pytest.raises(emag.Unsupported, match="with a picture"), emag.guide(pipe, C["negative"](1.5, negative="prompt:a")):
        case.run(pipe)
    assert changes(before, snapshot(pipe), own=False) == []


def test_cached_references_are_refused():
    case = MORE["klein-kv"]
    pipe = case.pipe()
    with pytest.raises(emag.Unsupported, match="kept from the first step"), emag.guide(pipe, EMAG()):
        case.run(pipe, image=[object()])


NETWORKS = ("SD3", "Flux", "Flux2", "QwenImage", "Chroma", "LongCatImage", "PixArt", "Sana", "AuraFlow", "CogView4", "DiT")
OUTSIDE = {  # a batch of three that they combine on their own
    "HunyuanDiTPAGPipeline", "PixArtSigmaPAGPipeline", "SanaPAGPipeline", "StableDiffusion3PAGPipeline",
    "StableDiffusion3PAGImg2ImgPipeline",
    "SanaSprintPipeline", "SanaSprintImg2ImgPipeline",  # trigonometric flow, whose times are not the scheduler's
    "VisualClozeGenerationPipeline", "VisualClozePipeline"}  # rows of pictures of several sizes, all in the making


def of_our_networks():
    """Names of the pipelines in the installed diffusers whose network is one of ours."""
    network = re.compile(rf"\btransformer: .*\b(?:(?:{'|'.join(NETWORKS)})Transformer2DModel|HunyuanDiT2DModel)\b")
    name = re.compile(r"^class (\w+Pipeline)\(", re.MULTILINE)
    found = set()
    for path in (Path(diffusers.__file__).parent / "pipelines").rglob("pipeline_*.py"):
        text = path.read_text(encoding="utf-8")
        if network.search(text):
            found |= set(name.findall(text))
    return found


@pytest.mark.skipif(not diffusers.__version__.startswith("0.42."), reason="lists the pipelines of diffusers 0.42")
def test_every_pipeline_of_our_image_networks_is_served_or_known_not_to_be():
    found = of_our_networks()
    assert len(found) > 50 and found - set(HOSTS) == OUTSIDE


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_others_are_refused(name):
    with pytest.raises(emag.Unsupported, match="not a supported pipeline"):
        host_of(object.__new__(getattr(diffusers, name)))
