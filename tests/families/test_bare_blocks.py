"""Blocks that are an attention module and nothing else: maps in and out, a text among the keys that has no queries."""

import pytest
import torch
from diffusers.models.attention_processor import Attention

import emag
from emag.engine.attending import Attending
from emag.engine.reading import read_network
from emag.errors import BadValue, Unsupported
from emag.lab.draw.sampling import DrawSettings, Job, arguments
from emag.methods import METHODS as C
from emag.testing.small_cascade import network as cascade_network
from emag.testing.small_kandinsky2 import MORE as KANDINSKY_2
from emag.testing.small_kandinsky2 import added, kandinsky
from emag.testing.small_kandinsky3 import MORE as KANDINSKY_3
from emag.testing.small_unconditional import MORE as UNCONDITIONAL
from emag.testing.small_unconditional import plain_unet
from emag.testing.small_unet import unet
from spy import attribute

CASES = {"ddpm": UNCONDITIONAL["ddpm"], "kandinsky22": KANDINSKY_2["kandinsky22"]}
ALL = pytest.mark.parametrize("name", CASES)
WINDOW = emag.Window.progress(0, 0.2, 0.95)


def first_weak(name, rule):
    """The first weak prediction of a run, the call it is of, and the network."""
    case = CASES[name]
    pipe, calls = case.pipe(), []
    net, original = pipe.unet, pipe.unet.forward

    def forward(*args, **kwargs):
        made = original(*args, **kwargs)
        calls.append((args, kwargs, tensor(made)))
        return made

    with attribute(net, "forward", forward), emag.guide(pipe, rule):
        case.run(pipe, num_inference_steps=2)
    return calls[1][2], calls[0][:2], net


def tensor(made):
    return made[0] if isinstance(made, tuple) else made.sample


def by_hand(net, block, change, args, kwargs, rows):
    """What the network gives where `change` stands in for the fused attention of one block."""
    fused, within = torch.nn.functional.scaled_dot_product_attention, []

    def attention(query, key, value, *more, **given):
        return change(query, key, value) if within else fused(query, key, value, *more, **given)

    handles = (block.register_forward_pre_hook(lambda *call: within.append(True)),
               block.register_forward_hook(lambda *call: within.clear()))
    with pytest.MonkeyPatch.context() as patched, torch.no_grad():
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
        made = net(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return tensor(made)[-rows:]


def identity(query, key, value):
    """Each query sees its own key and those of the text in front of them."""
    ahead = key.shape[2] - query.shape[2]
    seen = torch.cat([torch.ones(query.shape[2], ahead), torch.eye(query.shape[2])], 1).bool()
    weights = torch.softmax((query @ key.mT / query.shape[-1]**0.5).masked_fill(~seen, float("-inf")), -1)
    return weights @ value


@ALL
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_block_perturbed_is_the_network_with_that_attention(name, at):
    weak, (args, kwargs), net = first_weak(name, C["pag"](2.0, layers=(at,)))
    block = read_network(net).blocks[at].module
    assert isinstance(block, Attention)
    expected = by_hand(net, block, identity, args, kwargs, len(weak))
    assert (weak - expected).norm() < 1e-4 * expected.norm()
    plain = by_hand(net, block, lambda *call: torch.softmax(call[0] @ call[1].mT / call[0].shape[-1]**0.5, -1) @ call[2],
                    args, kwargs, len(weak))
    assert (weak - plain).norm() > 1e-4 * plain.norm()


@ALL
def test_a_block_left_out_does_nothing(name):
    weak, (args, kwargs), net = first_weak(name, C["slg"](2.0, layers=(2,)))
    block = read_network(net).blocks[2].module
    with torch.no_grad(), attribute(block, "forward", lambda hidden_states, *args, **more: hidden_states):
        made = net(*args, **kwargs)
    expected = tensor(made)[-len(weak):]
    assert (weak - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("variant", ["map", "image", "text"])
def test_columns_of_the_map_are_where_the_keys_are(variant):
    """The text's keys come first: an average of one kind of columns acts, and the others stay as they are."""
    case = CASES["kandinsky22"]
    pipe = case.pipe()
    plain = case.run(pipe, num_inference_steps=3)
    with emag.guide(pipe, emag.EMAG(1.5, layers=(1,), variant=variant, window=WINDOW)) as run:
        made = case.run(pipe, num_inference_steps=3)
    assert run.stats.effect > 1e-4 and not torch.equal(made, plain)


RULES = {"tpg": C["tpg"](2.0), "seg": C["seg"](2.0), "stg": C["stg"](2.0, form="attention"), "asag": C["asag"](2.0),
         "sag": C["sag"](), "s2": C["s2"](2.0, 0.4), "erg-push": C["erg-push"](2.0)}


@ALL
@pytest.mark.parametrize("rule", RULES)
def test_methods_on_attention_act(name, rule):
    case = CASES[name]
    pipe = case.pipe()
    with emag.guide(pipe, RULES[rule]) as run:
        assert case.run(pipe, num_inference_steps=3).isfinite().all()
    assert run.stats.effect > 1e-5 and run.stats.evaluations == run.stats.planned


@pytest.mark.parametrize("name", ["nag", "vsf", "pladis"])
def test_methods_on_the_text_find_it_among_the_keys(name):
    case = CASES["kandinsky22"]
    pipe = case.pipe()
    plain = case.run(pipe, num_inference_steps=3)
    rule = C[name](layers=(1, 2), cross=False, **({"scale": 5.0, "alpha": 0.4} if name == "nag" else {}))
    with emag.guide(pipe, rule):
        assert not torch.equal(case.run(pipe, num_inference_steps=3), plain)


# what is refused


def refused(name, pipe, rule, words):
    with pytest.raises(Unsupported, match=words), emag.guide(pipe, rule):
        CASES[name].run(pipe, num_inference_steps=3)


def test_what_works_around_an_attention_alone_is_refused():
    with pytest.raises(Unsupported, match="attention modules with norm and input inside"):
        Attending(read_network(plain_unet()), {(0, False)})
    with pytest.raises(Unsupported, match="keys beside its tokens, and this changes"):
        Attending(read_network(cascade_network()), {(0, False)})


def test_attention_to_the_text_alone_is_told_from_the_other():
    """Networks of larger stages may see the text alone."""
    pipe = kandinsky(type(CASES["kandinsky22"].pipe()), False, only_cross_attention=True)
    refused("kandinsky22", pipe, C["pag"](2.0, layers=(0,)), "is to the text")
    with emag.guide(pipe, C["pladis"](layers=(0,), cross=True)):
        assert CASES["kandinsky22"].run(pipe, num_inference_steps=3).isfinite().all()


def test_lists_of_two_kinds_are_refused():
    kinds = ("CrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D")
    with pytest.raises(Unsupported, match="blocks of two kinds"):
        read_network(unet(down_block_types=kinds))
    assert read_network(unet()).depth == read_network(added()).depth == 4


def test_half_of_what_is_returned_is_a_variance():
    network = read_network(added(in_channels=9))
    assert network.latents(torch.zeros(1, 9, 8, 8)).shape[1] == 4
    assert read_network(unet(in_channels=9)).latents(torch.zeros(1, 9, 8, 8)).shape[1] == 4


# from which scale on there are unconditional rows


@pytest.mark.parametrize(("name", "scale", "rows"), [
    ("ldm-text", 0.5, 2), ("ldm-text", 1.0, 1), ("kandinsky3", 0.5, 1), ("kandinsky3", 1.5, 2), ("unclip", 1.0, 1)])
def test_unconditional_rows_are_where_the_pipeline_has_them(name, scale, rows):
    case = (UNCONDITIONAL | KANDINSKY_2 | KANDINSKY_3)[name]
    with emag.guide(case.pipe(), emag.EMAG(1.5, layers=(0,), window=WINDOW)) as run:
        case.run(run._pipe, num_inference_steps=3, **{case.scale: scale})
    stats = run.stats
    assert stats.images == 2 and stats.clean == 3 * rows * stats.depth and stats.evaluations == stats.planned


def test_a_pipeline_without_a_prompt_is_given_none():
    pipe = CASES["ddpm"].pipe()
    assert arguments(pipe, [Job("", None, 1), Job("", None, 2)], DrawSettings())["batch_size"] == 2
    with pytest.raises(BadValue, match="takes no prompt"):
        arguments(pipe, [Job("a ship", None, 1)], DrawSettings())
