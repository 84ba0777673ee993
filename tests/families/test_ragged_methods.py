"""Rows with texts of different lengths: sizes, precision, other methods, further conditions."""

import pytest
import torch

import emag
from emag.engine.packed import Packing
from emag.engine.reading import read_network
from emag.hosts.defaults import entry
from emag.hosts.given import encode_condition
from emag.hosts.lookup import host_of
from emag.lab.forecast import image_tokens, text_tokens
from emag.maths.attention import Attention
from emag.methods import METHODS as C
from emag.testing.small_ragged import MORE, TEXT, texts, z_image
from ragged import EMAG, NETWORKS, TWO_CALLS, cases, close, counted, far, precise, short
from spy import network_outputs
from tiny import noise

pytestmark = pytest.mark.sampled(2)

SIDE = {"lumina2": 8}  # pixels a latent; 1 elsewhere


# sizes, precision, other methods


@cases(*NETWORKS)
def test_sizes_that_are_not_square(case):
    """HiDream fills the stream of such an image up to its largest size."""
    pipe, run_it = precise(case)
    side = SIDE.get(case.name, 1)
    size = {"height": 4 * side, "width": 12 * side}
    plain = run_it((8, 9), **size)
    rules = (EMAG(), C["seg"](1.5, layers=(1,), sigma=1.0), C["tpg"](1.5, layers=(1, 3)))
    with emag.guide(pipe, *rules) as run:
        made = run_it((8, 9), **size)
        assert run.stats.images == 2
        alone = torch.cat([run_it((seed,), **size) for seed in (8, 9)])
    assert far(made, plain) > 1e-3 and far(made, alone) < 1e-6


def test_padding_behind_an_image_is_left_alone():
    """At 4 x 12 the small HiDream has 2 x 6 image tokens in a stream of 16."""
    case, seen = short(MORE["hidream"]), []
    pipe = case.pipe()
    read_network(pipe.transformer).blocks[1].module.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True)
    with emag.guide(pipe, C["tpg"](1.5, layers=(1,))):
        case.run(pipe, height=4, width=12, num_inference_steps=1)
    (_, clean), weak = seen[0].chunk(2), seen[1]
    image = int((clean != weak).any(-1).any(0).nonzero().max()) + 1
    assert clean.shape[1] == 16 and 4 < image < 16
    assert torch.equal(weak[:, :image].sum(2).sort(1).values, clean[:, :image].sum(2).sort(1).values)


@cases(*NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(case, dtype):
    effects = []
    for kind in (torch.float32, dtype):
        pipe, run_it = precise(case, kind)
        with emag.guide(pipe, C["pag"](1.5, layers=(1,)), emag.CFG(3.0)) as run:
            assert run_it(num_inference_steps=1).isfinite().all()
        effects.append(run.stats.effect)
        with emag.guide(pipe, EMAG(), EMAG(variant="map")):
            assert run_it().isfinite().all()
    assert effects[1] == pytest.approx(effects[0], rel=0.2)


ACTING = {"pag": C["pag"](1.5, layers=(1,)), "slg": C["slg"](1.5, layers=(3,)), "s2": C["s2"](1.5, layers=(1,)),
          "tsg": C["tsg"](1.5), "apg": emag.APG(3.0, norm_threshold=2.5, momentum=-0.5), "tcfg": C["tcfg"](),
          "ag": C["ag"](0.5), "autoguidance": C["autoguidance"](1.5), "icg": C["icg"](),
          "cads": emag.CADS(0.3, 0.3, 0.9, 0.7)}


@cases(*NETWORKS)
@pytest.mark.parametrize("name", ACTING)
def test_methods_act_as_planned_or_say_why_not(case, name):
    pipe = case.pipe()
    plain, rows = case.run(pipe), counted(pipe)
    if case.name == "z-image" and name in ("icg", "cads"):
        with pytest.raises(emag.Unsupported, match="list of texts"), emag.guide(pipe, ACTING[name]):
            case.run(pipe)
        return
    with emag.guide(pipe, ACTING[name], models={"guide": case.pipe(seed=1).transformer}) as run:
        made = case.run(pipe)
    assert made.isfinite().all() and far(made, plain) > 1e-4
    other = 4 * len(run.stats.effects) if name == "autoguidance" else 0
    assert run.stats.evaluations == sum(rows.values()) / 2 + other <= run.stats.planned


@cases("lumina2", "z-image", "krea2")
def test_asag_is_refused_where_text_is_masked(case):
    pipe = case.pipe()
    with pytest.raises(emag.Unsupported, match="has a mask"), emag.guide(pipe, C["asag"](1.5, layers=(1,))):
        case.run(pipe)


# further conditions


def negative_of(case):
    """The negative prompt of the cases as network arguments."""
    mask = (torch.arange(TEXT) < 3)[None]
    if case.name == "hidream":
        return {"encoder_hidden_states_t5": noise(900, 1, TEXT, 12), "pooled_embeds": noise(950, 1, 10),
                "encoder_hidden_states_llama3": noise(920, 4, 3, 8)[None]}
    if case.name.startswith("z-image"):
        return {"cap_feats": [noise(900, TEXT, 12)]}
    shape = (TEXT, 2, 12) if case.name == "krea2" else (TEXT, 12)
    return {"encoder_hidden_states": noise(900, 1, *shape), "encoder_attention_mask": mask.float()}


@cases()
def test_a_further_condition_is_evaluated_as_the_pipeline_does(case):
    """The negative prompt once more, as a condition: the unconditional prediction of the pipeline."""
    pipe, doubled = case.pipe(), case.name not in TWO_CALLS
    with network_outputs(pipe) as raw, emag.guide(pipe, C["negative"](1.5), conditions={"negative": negative_of(case)}):
        case.run(pipe)
    while raw:
        answer, weak = raw.pop(0), raw.pop(0)
        halves = answer.chunk(2) if doubled else (answer, raw.pop(0))
        null, cond = halves if case.name == "hidream" else halves[::-1]
        close(weak, null, atol=1e-4, rtol=1e-4)
        assert far(weak, cond) > 1e-2


@cases(*NETWORKS)
def test_a_condition_may_have_another_length(case):
    given = {"z-image": {"cap_feats": noise(70, 1, 40, 12)}, "krea2": {"encoder_hidden_states": noise(70, 1, 7, 2, 12)},
             "lumina2": {"encoder_hidden_states": noise(70, 1, 7, 12)},
             "hidream": {"encoder_hidden_states_t5": noise(70, 1, 7, 12)}}[case.name]
    pipe, run_it = precise(case)
    with emag.guide(pipe, C["negative"](1.5), conditions={"negative": given}) as run:
        both = run_it()
        assert far(torch.cat([run_it((seed,)) for seed in (8, 9)]), both) < 1e-6
    assert run.stats.effect > 0.01


@cases("lumina2", "z-image", "krea2")
def test_a_condition_that_is_the_prompt_has_no_effect(case):
    pipe, call = case.pipe(), case.call((9,))
    mask = torch.ones(1, TEXT)
    given = {"cap_feats": call["prompt_embeds"]} if case.name == "z-image" else {
        "encoder_hidden_states": call["prompt_embeds"], "encoder_attention_mask": mask}
    with pytest.raises(emag.NoEffect, match="the images are made with"):
        with emag.guide(pipe, C["negative"](1.5), conditions={"negative": given}):
            pipe(**call)


ENCODED = {"lumina2": lambda n: (texts(n, 300, 5, 12), torch.ones(len(n), 5).long(), None, None),
           "z-image": lambda n: ([noise(300 + one, one, 12) for one in n], []),
           "hidream": lambda n: (texts(n, 300, 5, 12), None, torch.stack([noise(one, 4, 3, 8) for one in n], 1), None,
                                 texts(n, 400, 10), None),
           "krea2": lambda n: (texts(n, 300, 5, 2, 12), torch.ones(len(n), 5).bool())}


@cases(*NETWORKS)
def test_prompts_are_encoded_by_the_pipeline(case):
    pipe = case.pipe()
    vars(pipe)["encode_prompt"] = lambda prompt, **more: ENCODED[case.name](tuple(len(text) for text in prompt))
    found = encode_condition(["a", "abc"], host_of(pipe), pipe, read_network(pipe.transformer))
    assert set(found) <= set(read_network(pipe.transformer).backbone.per_row)
    assert all(len(value) == 2 for value in found.values())
    del vars(pipe)["encode_prompt"]
    with emag.guide(pipe, C["negative"](1.5), conditions={"negative": found}) as run:
        case.run(pipe)
    assert run.stats.effect > 0.01


# facts


@cases(*NETWORKS)
def test_every_network_has_defaults(case):
    pipe = case.pipe()
    with emag.guide(pipe, emag.EMAG(), emag.CFG()) as run:
        case.run(pipe, num_inference_steps=28)
    assert run.resolved[0].scale == 1.5 and run.resolved[0].layers
    assert run.resolved[1].scale == entry("cfg", (run.resolved and type(pipe.transformer).__name__,)).values["scale"]


@cases(*NETWORKS)
def test_tokens_of_a_forecast(case):
    network = read_network(case.pipe().transformer)
    assert image_tokens(network, 1024, 512) == 64 * 32
    assert text_tokens(network, None) >= 128 and text_tokens(network, 7) == 7


def test_packing_moves_the_image_to_the_end_and_back():
    x = torch.arange(2 * 7 * 3.0).view(2, 7, 3)
    packing = Packing.of((1, 3), 4, x.device)
    opened = packing.opened(x)
    for row, text in enumerate((1, 3)):
        assert torch.equal(opened[row, -4:], x[row, text:text + 4]) and torch.equal(opened[row, :text], x[row, :text])
    assert torch.equal(packing.closed(opened), x)
    turned = x.transpose(1, 2)[:, None]
    assert torch.equal(packing.opened(turned, 3)[:, 0].transpose(1, 2), opened)
    assert Packing.of((3, 3), 4, x.device) is None


def test_masked_keys_do_not_count_in_the_size_of_the_keys():
    q, k = noise(1, 2, 2, 6, 4), noise(2, 2, 1, 6, 4)
    mask = (torch.arange(6) < torch.tensor([[4], [6]]))[:, None, None]
    found = Attention(q, k, k, slice(0, 3), mask).key_size()
    close(found, torch.stack([k[0, :, :4].abs().mean(), k[1].abs().mean()]))
    close(Attention(q, k, k, slice(0, 3)).key_size(), k.abs().mean((1, 2, 3)))


def test_z_image_with_several_images_of_a_prompt():
    case, pipe = short(MORE["z-image"]), z_image()
    with emag.guide(pipe, EMAG(), emag.CFG(3.0)) as run:
        made = case.run(pipe, (9,), num_images_per_prompt=2, generator=torch.Generator().manual_seed(1))
    assert run.stats.images == len(made) == 2
