"""Reference images: their tokens stand behind those of the image in the making, and stay as they are."""

from dataclasses import replace

import pytest
import torch

import emag
from editing import EMAG, KINDS, MORE, REFERENCES, SCALE, cases, cast, far
from emag.core import Rows
from emag.engine import arguments, step_rules
from emag.engine.reading import read_network
from emag.maths.attention import Attention
from emag.maths.layout import unpack
from emag.methods import METHODS as C
from emag.methods.attention.nag import NormalizedAttention
from emag.methods.common.token_maps import Cells, token_maps
from separate import size_of
from spy import attribute, network_outputs, scheduler_steps
from tiny import TEXT, noise

pytestmark = pytest.mark.sampled(2)

# reference images


PLACES = {"qwen-edit": ((2, 3, 2), 6, 12), "qwen-edit-2511": ((2, 3, 2), 6, 12), "qwen-edit-plus": ((2, 3, 2), 6, 10 + 16),
          "qwen-edit-inpaint": ((3, 4, 2), 12, 12), "qwen-layered": ((2, 2, 2, 2), 8, 4), "kontext": ((4, 4, 2), 16, 8),
          "kontext-cfg": ((4, 4, 2), 16, 8), "kontext-inpaint": ((2, 4, 2), 8, 8), "flux2-edit": ((4, 4, 2), 16, 32 + 16),
          "klein-edit": ((4, 4, 2), 16, 32 + 16), "klein-inpaint": ((4, 4, 2), 16, 16),
          "longcat-edit": ((2, 8, 2), 16, 16)}
"""Grid of the image in the making, its tokens, and those of its reference images."""


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
