"""MTI's null: the text so far and a short suffix, from the prompt's own cache, held against the whole text from nothing."""

import copy
import math

import pytest
import torch
from transformers import DynamicCache

import emag
from emag.maths.logits import token_entropy
from small_words import decoded, generate, logp, model_of, prompts

SUFFIX, W, COUNT = torch.tensor([4, 9, 2]), 1.7, 8
close = torch.testing.assert_close


def guided(model, inputs, *rules, null=None, count=COUNT, space="logp", **more):
    torch.manual_seed(3)
    null = emag.tokens.suffix(SUFFIX) if null is None else null
    with emag.tokens.guide(model, *rules, null=null, space=space) as run:
        return generate(model, inputs, count, **more), run


def by_hand(model, prompt, tokens, scale=W):
    c, u = logp(model, prompt, tokens), logp(model, prompt, torch.cat([tokens, SUFFIX]))
    return (u + scale * (c - u)).log_softmax(-1)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("space", ["logp", "hidden"])
def test_a_suffix_is_the_whole_text_from_nothing(name, space):
    """At every token, with padding (GPT-2's places are learned), in passes over the suffix alone."""
    model, inputs = model_of(name), prompts(name, 6, 3)
    made, run = guided(model, inputs, emag.CFG(W), space=space)
    for row in range(2):
        prompt, tokens = decoded(model, inputs, made, row)
        for i, scores in enumerate(made.scores):
            close(scores[row].log_softmax(-1), by_hand(model, prompt, tokens[:i]), atol=1e-4, rtol=1e-4)
    assert run.stats.passes == run.plan(COUNT) == {"uncond": COUNT} and run.stats.fed == {"uncond": COUNT * len(SUFFIX)}


def test_unsure_tokens_alone_read_the_suffix():
    model, inputs = model_of("llama"), prompts("llama", 6, 3)
    made, run = guided(model, inputs, emag.tokens.MTI(W, threshold=2.1), do_sample=True)
    needed = set()
    for row in range(2):
        prompt, tokens = decoded(model, inputs, made, row)
        for i, scores in enumerate(made.scores):
            plain = logp(model, prompt, tokens[:i])
            unsure = float(token_entropy(plain)) > 2.1
            close(scores[row], by_hand(model, prompt, tokens[:i]) if unsure else plain, atol=1e-4, rtol=1e-4)
            needed |= {i} if unsure else set()
    assert 0 < len(needed) < COUNT and run.stats.passes == {"uncond": len(needed)}


WAYS = {"beams": {"num_beams": 3}, "lookup": {"prompt_lookup_num_tokens": 3}, "chunks": {"prefill_chunk_size": 2},
        "drafts": {"assistant_model": copy.deepcopy(model_of("llama"))}}
"""Drafts of the model itself: some are taken, so that several tokens of one pass are read."""


@pytest.mark.parametrize("more", WAYS.values(), ids=WAYS)
def test_the_text_is_right_by_other_ways_to_decode(more):
    model, inputs = model_of("llama"), prompts("llama", 6)
    made, _ = guided(model, inputs, emag.CFG(W), **more)
    prompt, tokens = decoded(model, inputs, made, 0)
    right = [by_hand(model, prompt, tokens[:i]) for i in range(COUNT)]
    if "num_beams" in more:
        total = sum(float(right[i][tokens[i]]) for i in range(COUNT))
        assert float(made.sequences_scores[0]) == pytest.approx(total / COUNT, abs=1e-4)
    else:
        assert tokens.tolist() == [int(one.argmax()) for one in right]


def test_the_prompts_cache_is_as_it_was():
    model, inputs = model_of("llama"), prompts("llama", 6, 3)
    kept = [DynamicCache(config=model.config) for _ in range(2)]
    ours, _ = guided(model, inputs, emag.CFG(W), past_key_values=kept[0])
    forced = iter(ours.sequences[:, 6:].T)  # the same text, unguided
    plain = lambda ids, scores: torch.full_like(scores, -math.inf).scatter(1, next(forced)[:, None], 0.0)  # noqa: E731
    theirs = generate(model, inputs, COUNT, past_key_values=kept[1], logits_processor=[plain])
    assert torch.equal(ours.sequences, theirs.sequences)
    for one, other in zip(kept[0].layers, kept[1].layers, strict=True):
        assert torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


class Words:
    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [1] * add_special_tokens + [4 + ord(letter) % 19 for letter in text]}


def test_a_text_is_read_without_what_begins_one():
    model, inputs, ids = model_of("llama"), prompts("llama", 6), torch.tensor(Words()("BAD", False)["input_ids"])
    with emag.tokens.guide(model, emag.CFG(W), null=emag.tokens.suffix("BAD"), tokenizer=Words()):
        ours = generate(model, inputs)
    theirs, _ = guided(model, inputs, emag.CFG(W), null=emag.tokens.suffix(ids))
    assert torch.equal(ours.sequences, theirs.sequences)


def test_a_suffix_may_be_a_further_condition():
    model, inputs = model_of("llama"), prompts("llama", 6)
    with emag.tokens.guide(model, emag.Negative(W, negative="bad"), conditions={"bad": emag.tokens.suffix(SUFFIX)}) as run:
        made = generate(model, inputs)
    prompt, tokens = decoded(model, inputs, made, 0)
    for i, scores in enumerate(made.scores):
        c, u = logp(model, prompt, tokens[:i]), logp(model, prompt, torch.cat([tokens[:i], SUFFIX]))
        close(scores[0], (c + (W - 1) * (c - u)).log_softmax(-1), atol=1e-4, rtol=1e-4)
    assert run.stats.passes == {"bad": COUNT}


def llama(rule=None, name="llama", **more):
    return lambda: guided(model_of(name), prompts(name, 6), rule or emag.CFG(W), **more)


REFUSED = {
    "static": (llama(cache_implementation="static"), "dynamic"), "no cache": (llama(use_cache=False), "got none"),
    "encoder": (llama(name="t5"), "encoder"), "soft": (llama(emag.tokens.SoftCFG(W)), "keeps nothing"),
    "loop": (lambda: emag.tokens.processor(model_of("llama"), emag.CFG(W), null=emag.tokens.suffix(SUFFIX)), "guide"),
    "empty": (lambda: emag.tokens.suffix(""), "at least one token"),
    "rows": (lambda: emag.tokens.suffix(SUFFIX[None]), r"\[length\]"),
    "words": (llama(null=emag.tokens.suffix("BAD")), "tokenizer"),
}


@pytest.mark.parametrize(("call", "says"), REFUSED.values(), ids=REFUSED)
def test_where_a_suffix_cannot_be_right_it_is_refused(call, says):
    with pytest.raises((emag.BadValue, emag.Unsupported), match=says):
        call()
