"""Guidance first, then biases and penalties, masks, and warpers; masks survive; where transformers' own guidance is right
ours is the same, and where it is not, these tests say what is wrong there."""

import itertools
import math

import pytest
import torch
from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor

import emag
from small_words import DECODERS, EOS, VOCABULARY, by_hand, decoded, generate, logp, model_of, prompts

NULL = torch.tensor([[4, 9, 2]])
W = 1.7
close = torch.testing.assert_close
decoders = pytest.mark.parametrize("name", DECODERS)


def ours(model, inputs, *rules, null=NULL, count=8, given=None, **more):
    torch.manual_seed(3)
    with emag.tokens.guide(model, *(rules or (emag.CFG(W),)), null=null, **(given or {})):
        return generate(model, inputs, count, **more)


def theirs(model, inputs, count=8, null=NULL, **more):
    torch.manual_seed(3)
    # one null for all rows: their processor takes one row for each
    given = {} if null is None else {"negative_prompt_ids": null.expand(len(inputs["input_ids"]), -1)}
    return generate(model, inputs, count, guidance_scale=W, **given, **more)


class Grammar:
    """A mask that goes by the last token: after token n only n + 1 to n + 5, round the vocabulary."""

    def __call__(self, input_ids, scores):
        allowed = (input_ids[:, -1:] + torch.arange(1, 6)) % VOCABULARY
        return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).scatter(1, allowed, False), -torch.inf)


def keeps(tokens):
    return all((b - a) % VOCABULARY in range(1, 6) for a, b in itertools.pairwise(tokens))


@decoders
@pytest.mark.parametrize("null", [NULL, None], ids=["negative", "dropped"])
@pytest.mark.parametrize("more", [{}, {"do_sample": True}, {"do_sample": True, "top_k": 5, "temperature": 0.7},
                                  {"do_sample": True, "top_p": 0.8}, {"bad_words_ids": [[5], [6]]}, {"min_new_tokens": 4},
                                  {"no_repeat_ngram_size": 2}, {"sequence_bias": {(7,): 3.0}}],
                         ids=lambda more: "+".join(more) or "greedy")
def test_where_transformers_guidance_is_right_ours_is_the_same(name, null, more):
    model, inputs = model_of(name), prompts(name, 6, 6)
    more = {**more, **({"eos_token_id": EOS} if "min_new_tokens" in more else {})}
    one, other = ours(model, inputs, null=null, **more), theirs(model, inputs, null=null, **more)
    assert one.sequences.tolist() == other.sequences.tolist()
    for a, b in zip(one.scores, other.scores):
        # where nothing has read the values they differ by what normalises them
        close(a.log_softmax(-1), b.log_softmax(-1), atol=1e-4, rtol=1e-4)


@decoders
def test_transformers_guidance_leaves_the_cache_of_its_null_behind_in_beams(name):
    model = model_of(name)

    def off(inputs, made):
        """How far the score of the text is from the sum of the definition's log-probabilities."""
        prompt, tokens = decoded(model, inputs, made, 0)
        total = sum(by_hand(model, prompt, NULL[0], tokens[:i], W)[tokens[i]] for i in range(len(tokens)))
        return abs(float(made.sequences_scores[0] - total / len(tokens)))

    texts = [prompts(name, 6, seed=seed) for seed in range(4)]
    theirs = dict(guidance_scale=W, negative_prompt_ids=NULL.expand(4, -1), renormalize_logits=True)
    assert all(off(inputs, ours(model, inputs, num_beams=4)) < 1e-4 for inputs in texts)
    assert max(off(inputs, generate(model, inputs, 8, num_beams=4, **theirs)) for inputs in texts) > 1e-2


@decoders
def test_transformers_guidance_goes_wrong_where_drafts_are_refused(name):
    model, inputs, helper = model_of(name), prompts(name, 6), model_of(name, 5)
    alone = ours(model, inputs, count=16).sequences.tolist()
    assert theirs(model, inputs, count=16).sequences.tolist() == alone
    assert ours(model, inputs, count=16, assistant_model=helper).sequences.tolist() == alone
    try:
        drafted = theirs(model, inputs, count=16, assistant_model=helper).sequences.tolist()
    except Exception:
        drafted = None
    assert drafted != alone


def test_transformers_guidance_cannot_read_an_encoder():
    model, inputs = model_of("t5"), prompts("t5", 6)
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        generate(model, inputs, guidance_scale=W)


@pytest.mark.parametrize("name", ["gpt2", *DECODERS])
def test_transformers_guidance_counts_the_padding_of_its_null(name):
    """A padded negative prompt is read as text where its mask is left out; and with it places still count the padding, which
    changes nothing where only distances count (rotary embeddings)."""
    model, inputs, null = model_of(name), prompts(name, 6, 6), prompts(name, 2, 5, seed=9)
    made = ours(model, inputs, null=null)
    prompt, tokens = decoded(model, inputs, made, 0)
    right = by_hand(model, prompt, null["input_ids"][0, -2:], tokens[:0], W)
    close(made.scores[0][0], right, atol=1e-4, rtol=1e-4)
    bad = generate(model, inputs, guidance_scale=W, negative_prompt_ids=null["input_ids"])
    assert not torch.allclose(bad.scores[0][0].log_softmax(-1), right, atol=1e-2)
    masked = generate(model, inputs, guidance_scale=W, negative_prompt_ids=null["input_ids"],
                      negative_prompt_attention_mask=null["attention_mask"]).scores[0][0].log_softmax(-1)
    assert torch.allclose(masked, right, atol=1e-3) is (name != "gpt2")


@pytest.mark.parametrize(("scale", "breaks"), [(0.0, torch.isnan), (-1.0, torch.isposinf)], ids=["nan", "winner"])
def test_transformers_guidance_behind_a_mask_lets_it_turn_into_nan_or_a_winner(scale, breaks):
    """A processor that a user hands in comes after the masks of the call: there theirs computes with minus infinity."""
    model, inputs = model_of("llama"), prompts("llama", 6)
    theirs_ = UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, model, unconditional_ids=NULL)
    made = generate(model, inputs, 1, bad_words_ids=[[5], [6]], logits_processor=[theirs_])
    assert breaks(made.scores[0][0, [5, 6]]).all()
    # ours in the same place, and at the same weights: what is masked stays so
    rule = emag.Compose("uncond", (emag.Term(scale, "cond", "uncond"),))
    ours_ = emag.tokens.processor(model, rule, null=NULL)
    kept = generate(model, inputs, 6, bad_words_ids=[[5], [6]], logits_processor=[ours_])
    assert all(scores[0, [5, 6]].isneginf().all() and not scores.isnan().any() for scores in kept.scores)
    assert not {5, 6} & set(kept.sequences[0, 6:].tolist())


@decoders
def test_two_calls_in_one_block_are_as_two_blocks(name):
    """Every branch begins anew with a call: no cache of the last text is left, as one of three is in VoxInstruct's code."""
    model, texts = model_of(name), [prompts(name, 6, seed=seed) for seed in (1, 2)]
    rules = (emag.Negative(1.3, negative="text"), emag.CFG(W))
    with emag.tokens.guide(model, *rules, null=NULL, conditions={"text": NULL[:, :2]}) as run:
        together = [generate(model, inputs).sequences.tolist() for inputs in texts]
        assert run.stats.passes == {"text": 8, "uncond": 8}
    alone = [ours(model, inputs, *rules, given={"conditions": {"text": NULL[:, :2]}}).sequences.tolist() for inputs in texts]
    assert together == alone and together[0] != together[1]


@decoders
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.7, 6.0])
@pytest.mark.parametrize("more", [{}, {"do_sample": True}, {"num_beams": 3}], ids=["greedy", "sampled", "beams"])
def test_a_grammar_is_kept_at_every_strength(name, scale, more):
    model, inputs = model_of(name), prompts(name, 6, 3)
    made = ours(model, inputs, emag.CFG(scale), logits_processor=[Grammar()], **more)
    assert all(keeps(row[-9:].tolist()) for row in made.sequences)
    assert not any(scores.isnan().any() or scores.isposinf().any() for scores in made.scores)
    if not more:  # guidance, then mask: the mask of guidance
        prompt, tokens = decoded(model, inputs, made, 1)
        for i, scores in enumerate(made.scores):
            allowed = scores[1].isfinite()
            close(scores[1][allowed], by_hand(model, prompt, NULL[0], tokens[:i], scale)[allowed], atol=1e-4, rtol=1e-4)
            assert int(allowed.sum()) == 5


@decoders
@pytest.mark.parametrize("rules", [
    (emag.CFG(0.0),), (emag.CFG(3.0),), (emag.Compose("uncond", (emag.Term(-2.0, "cond"),)),),
    (emag.AG(threshold=0.9, on="logp"), emag.CFG(3.0)), (emag.tokens.MTI(3.0, threshold=0.5),), (emag.tokens.SoftCFG(3.0),)],
    ids=lambda rules: "+".join(rule.name for rule in rules))
def test_a_mask_before_guidance_survives_it(name, rules):
    """A loop of one's own may mask first: what is excluded stays so, also where a weight is 0 or below."""
    model, inputs = model_of(name), prompts(name, 6, 3)
    guide = emag.tokens.processor(model, *rules, null=NULL, attention_mask=inputs["attention_mask"])
    ids = inputs["input_ids"]
    for _ in range(5):
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, ids.shape[1] - 6), value=1)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            scores = model(input_ids=ids, attention_mask=mask, position_ids=places).logits[:, -1]
        masked = Grammar()(ids, scores)
        guided = guide(ids, masked)
        assert (guided.isneginf() == masked.isneginf()).all() and not guided.isnan().any()
        ids = torch.cat([ids, guided.argmax(-1, keepdim=True)], dim=1)
    assert all(keeps(row[-6:].tolist()) for row in ids)


@decoders
def test_what_is_excluded_does_not_keep_branches_from_agreeing(name):
    """The cosine of what is left decides, not that of infinities."""
    model, ids = model_of(name), prompts(name, 6)["input_ids"]
    guide = emag.tokens.processor(model, emag.AG(threshold=-0.99, on="logp"), emag.CFG(3.0), null=NULL)
    for _ in range(4):
        with torch.no_grad():
            guided = guide(ids, Grammar()(ids, model(input_ids=ids).logits[:, -1]))
        ids = torch.cat([ids, guided.argmax(-1, keepdim=True)], dim=1)
    assert guide.stats.passes == {"uncond": 1}


@decoders
def test_masking_first_and_guiding_then_is_the_same_where_both_are_allowed(name):
    model, ids = model_of(name), prompts(name, 6)["input_ids"]
    scores = logp(model, ids[0], ids[0, :0])[None]
    after = Grammar()(ids, emag.tokens.processor(model, emag.CFG(W), null=NULL)(ids, scores)).log_softmax(-1)
    before = emag.tokens.processor(model, emag.CFG(W), null=NULL)(ids, Grammar()(ids, scores)).log_softmax(-1)
    close(after, before, atol=1e-5, rtol=1e-5)


@decoders
def test_tokens_that_a_branch_excludes_keep_what_the_prompt_says(name):
    model, ids = model_of(name), prompts(name, 6)["input_ids"]
    scores = logp(model, ids[0], ids[0, :0])[None]
    free = emag.tokens.processor(model, emag.CFG(W), null=NULL)(ids, scores)
    head = model.lm_head.register_forward_hook(lambda _, __, out: out.index_fill(-1, torch.tensor([5]), -torch.inf))
    try:
        guided = emag.tokens.processor(model, emag.CFG(W), null=NULL)(ids, scores)
    finally:
        head.remove()
    assert guided.isfinite().all()
    others = torch.arange(VOCABULARY) != 5
    close(guided[:, others].log_softmax(-1), free[:, others].log_softmax(-1), atol=1e-5, rtol=1e-5)


@decoders
def test_penalties_see_log_probabilities_or_logits_as_asked(name):
    """A repetition penalty divides what is above 0 and multiplies what is below: it reads the values themselves."""
    model, inputs = model_of(name), prompts(name, 6)
    plain = generate(model, inputs, 1, repetition_penalty=1.5).scores[0]
    raw = ours(model, inputs, emag.CFG(1.0 + 1e-6), count=1, given={"space": "logits"}, repetition_penalty=1.5).scores[0]
    log = ours(model, inputs, emag.CFG(1.0 + 1e-6), count=1, repetition_penalty=1.5).scores[0]
    close(raw, plain, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(log.log_softmax(-1), plain.log_softmax(-1), atol=1e-2)
    # transformers hands on u + w (c - u) as it is, whose sign depends on what it would be normalised by
    unnormalised = theirs(model, inputs, count=1, repetition_penalty=1.5).scores[0]
    normalised = ours(model, inputs, count=1, repetition_penalty=1.5).scores[0]
    assert not torch.allclose(unnormalised.log_softmax(-1), normalised.log_softmax(-1), atol=1e-2)
    assert math.isfinite(float(log.max()))
