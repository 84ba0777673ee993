"""Condition-degradation guidance: the same prompt with its content emptied, inside the network."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

import emag
from emag.errors import BadValue, NoEffect, Unsupported
from emag.hosts.content import content_tokens
from emag.methods.null.cdg import emptied
from reference import tensors
from spy import blocks_of
from tiny import CASES, noise, sd3
from whole_blocks import answer, calls_of, close

NULL = {"encoder_hidden_states": noise(900, 1, 5, 12), "pooled_projections": noise(950, 1, 10)}
CONTENT = torch.tensor([[True, True, False, True, False], [True, False, False, False, False]])
JOINT = pytest.mark.parametrize("case", [CASES["sd3"], CASES["true-cfg"]], ids=lambda case: case.name)


def seen(case, rule, mask=CONTENT, pipe=None, steps=2, *rules):
    pipe = (pipe or case.pipe()).to(torch.float64)
    call = {key: value.double() if key.endswith("embeds") else value for key, value in case.call((8, 9)).items()}
    with calls_of(pipe) as calls, emag.guide(pipe, rule, *(rules or (emag.CFG(3.0),)), conditions={"null": NULL},
                                             masks={"content": mask}) as handle:
        images = pipe(**{**call, "num_inference_steps": steps}).images
    return calls, handle, images


@JOINT
@pytest.mark.parametrize("block", [0, 1, 3])
def test_the_unconditional_prediction_is_that_of_the_emptied_prompt(case, block):
    pipe = case.pipe()
    calls, handle, _ = seen(case, emag.CDG(block, "null"), pipe=pipe)
    # the null prompt once, then in each step the prompt and the emptied one; never the negative prompt
    empty, clean, *_ = calls
    assert len(calls) == 5 and all(len(call.out) == 2 for call in calls)
    net, held = deepcopy(pipe.transformer), []
    first = blocks_of(SimpleNamespace(transformer=net))[0]
    hook = first.register_forward_pre_hook(lambda m, a, kw: held.append(kw["encoder_hidden_states"]), with_kwargs=True)
    answer(net, empty.values)
    hook.remove()

    def put(module, args, kwargs):
        text = kwargs["encoder_hidden_states"]
        return args, {**kwargs, "encoder_hidden_states": torch.where(CONTENT[..., None], held[0], text)}

    blocks_of(SimpleNamespace(transformer=net))[block].register_forward_pre_hook(put, with_kwargs=True)
    close(calls[2].out, answer(net, clean.values), atol=1e-9, rtol=1e-9)  # the pooled text is the prompt's
    depth = case.depth(pipe)
    assert handle.stats.evaluations == handle.stats.planned == depth + 2 * (depth + depth - block)


def test_at_the_first_block_wholly_emptied_it_is_the_null_prompt_with_the_prompts_pooled_text():
    case, pipe = CASES["sd3"], CASES["sd3"].pipe()
    calls, _, _ = seen(case, emag.CDG(0, "null"), torch.ones(1, 5, dtype=torch.bool), pipe)
    values = {**calls[1].values, "encoder_hidden_states": NULL["encoder_hidden_states"].double().expand(2, -1, -1)}
    close(calls[2].out, answer(pipe.transformer, values), atol=1e-9, rtol=1e-9)


def test_with_no_content_u_is_c():
    with pytest.raises(NoEffect, match="never differed"):
        seen(CASES["sd3"], emag.CDG(1, "null"), torch.zeros(1, 5, dtype=torch.bool))


def test_a_run_that_guides_late_has_the_null_prompt_by_then():
    late = emag.CFG(emag.Interval(3.0, 0.5, 1.0, "progress"))
    calls, handle, _ = seen(CASES["sd3"], emag.CDG(1, "null"), CONTENT, None, 4, late)
    assert len(calls) == 1 + 4 + 2 and handle.stats.evaluations == handle.stats.planned


def test_only_content_is_replaced():
    text, null = tensors(1, 2, 2, 5, 3)
    new = emptied(text, null, CONTENT)
    assert torch.equal(new[CONTENT], null[CONTENT]) and torch.equal(new[~CONTENT], text[~CONTENT])
    for wrong in (CONTENT[:, :4], CONTENT[0], torch.ones(3, 5)):
        with pytest.raises(BadValue, match="mask of content"):
            emptied(text, null, wrong)
    with pytest.raises(BadValue, match="mask of content"):
        emptied(text, null[:, :4], CONTENT)


@pytest.mark.parametrize("mask", [CONTENT[:, :4], CONTENT[0], torch.ones(3, 5)])
def test_a_mask_of_another_shape_is_refused_before_anything_is_evaluated(mask):
    pipe, calls = CASES["sd3"].pipe(), []
    pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(BadValue, match=r"bool \[1 or 2, 5 tokens\]"):
        seen(CASES["sd3"], emag.CDG(1, "null"), mask, pipe)
    assert not calls


def test_what_it_lacks_is_said_before_the_run():
    case = CASES["sd3"]
    with pytest.raises(BadValue, match="mask 'content', which was not given"):
        with emag.guide(case.pipe(), emag.CDG(1, "null"), emag.CFG(3.0), conditions={"null": NULL}):
            case.run(case.pipe())
    for rule in (emag.CDG(9), emag.CDG(1)):
        kind, said = (BadValue, "do not exist") if rule.block == 9 else (Unsupported, "flows through the blocks")
        pipe = CASES["sd3" if rule.block == 9 else "dit"].pipe()
        with pytest.raises(kind, match=said), emag.guide(pipe, rule, emag.CFG(3.0)):
            pass
    with pytest.raises(BadValue, match="cdg block"):
        emag.CDG(-1)


class Tokenizer:
    """A token a letter, between a start and an end."""

    def __call__(self, texts, padding, max_length, truncation, return_tensors):
        assert padding == "max_length" and truncation and return_tensors == "pt"
        own = torch.tensor([[min(len(text) + 2, max_length)] for text in texts])
        return SimpleNamespace(attention_mask=(torch.arange(max_length) < own).long())


def test_content_is_what_tokenizers_do_not_pad():
    pipe = sd3()
    pipe.tokenizer, pipe.tokenizer_3, pipe.text_encoder_3, pipe.tokenizer_max_length = Tokenizer(), Tokenizer(), object(), 77
    made = content_tokens(pipe, ["a fox", ""])
    assert made.shape == (2, 77 + 256) and made.dtype == torch.bool
    assert made.sum(1).tolist() == [14, 4] and made[0, :7].all() and made[0, 77:84].all()
    pipe.text_encoder_3 = None
    assert content_tokens(pipe, "a fox").sum() == 7
    flux = CASES["flux"].pipe()
    flux.tokenizer_2 = Tokenizer()
    assert content_tokens(flux, "a fox").shape == (1, 512)
    with pytest.raises(Unsupported, match="give the mask yourself"):
        content_tokens(CASES["dit"].pipe(), "7")
