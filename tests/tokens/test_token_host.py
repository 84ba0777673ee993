"""A guided `generate` gives, in every way of decoding, what the guided distributions say: held against whole texts without a
cache, padding or batch. Vocabulary 23, random weights."""

import copy

import pytest
import torch

import emag
from small_words import BOTH_SIDES, DECODERS, PAD, VOCABULARY, by_hand, decoded, generate, logp, model_of, prompts, row_of

NULL = torch.tensor([4, 9, 2])
W = 1.7
close = torch.testing.assert_close
every = pytest.mark.parametrize("name", ["gpt2", *DECODERS, *BOTH_SIDES])
decoders = pytest.mark.parametrize("name", ["gpt2", *DECODERS])


def guided(model, inputs, *rules, null=NULL, count=8, given=None, **more):
    torch.manual_seed(3)
    with emag.tokens.guide(model, *(rules or (emag.CFG(W),)), null=null, **(given or {})) as run:
        return generate(model, inputs, count, **more), run


def check_scores(model, inputs, made, null, times=1, scale=W):
    """Every score that decoding has seen is that of the definition."""
    for row in range(len(made.sequences)):
        prompt, tokens = decoded(model, inputs, made, row, times)
        start = len(tokens) - len(made.scores)
        own = null[row // times] if isinstance(null, list) else null
        for i, scores in enumerate(made.scores):
            close(scores[row], by_hand(model, prompt, own, tokens[:start + i], scale), atol=1e-4, rtol=1e-4)


@every
@pytest.mark.parametrize("more", [{}, {"do_sample": True}], ids=["greedy", "sampled"])
def test_scores_are_those_of_the_definition_for_prompts_of_different_lengths(name, more):
    model, inputs = model_of(name), prompts(name, 6, 3, 4)
    made, run = guided(model, inputs, **more)
    check_scores(model, inputs, made, NULL)
    assert run.stats.passes == {"uncond": 8} and run.stats.rows == 3 and run.stats.tokens == 8
    plain = generate(model, inputs, **more)
    assert not torch.allclose(plain.scores[0].log_softmax(-1), made.scores[0], atol=1e-2)


@decoders
def test_by_default_the_null_is_the_last_token_of_the_prompt(name):
    model, inputs = model_of(name), prompts(name, 6, 3)
    made, run = guided(model, inputs, null=None)
    check_scores(model, inputs, made, [ids[-1:] for ids in inputs["input_ids"]])
    assert run.stats.fed == {"uncond": 8}


@every
def test_nulls_of_different_lengths_are_padded_on_the_left(name):
    model, inputs, null = model_of(name), prompts(name, 4, 6, 3), prompts(name, 2, 5, 3, seed=9)
    made, _ = guided(model, inputs, null=null)
    check_scores(model, inputs, made, [row_of(null, row)["input_ids"][0] for row in range(3)])


@every
def test_a_row_of_a_batch_is_the_row_alone(name):
    model, inputs, null = model_of(name), prompts(name, 6, 3, 4), prompts(name, 2, 5, 3, seed=9)
    together, _ = guided(model, inputs, null=null)
    for row in range(3):
        alone, _ = guided(model, row_of(inputs, row), null=row_of(null, row))
        for both, one in zip(together.scores, alone.scores):
            close(both[row], one[0], atol=1e-4, rtol=1e-4)


@every
@pytest.mark.parametrize("times", [2, 3])
def test_beams_carry_their_null_along(name, times):
    model, inputs, null = model_of(name), prompts(name, 5, 3), prompts(name, 2, 4, seed=9)
    made, run = guided(model, inputs, null=null, num_beams=times, num_return_sequences=times, count=6)
    for row in range(2 * times):
        prompt, tokens = decoded(model, inputs, made, row, times)
        own = row_of(null, row // times)["input_ids"][0]
        start = 1 if model.config.is_encoder_decoder else 0
        total = sum(by_hand(model, prompt, own, tokens[:i], W)[tokens[i]] for i in range(start, len(tokens)))
        close(made.sequences_scores[row], total / 6, atol=1e-4, rtol=1e-4)
    assert run.stats.rows == 2 * times and run.stats.passes == {"uncond": 6}
    # caches are put in a new order, not read again: the null's own tokens once, and then one token a pass
    assert run.stats.fed["uncond"] <= 4 + 6


@decoders
def test_as_many_beams_as_tokens_find_the_best_of_all_texts_of_two(name):
    model, inputs = model_of(name), prompts(name, 5)
    made, _ = guided(model, inputs, num_beams=VOCABULARY, count=2)
    prompt, none = inputs["input_ids"][0], torch.empty(0, dtype=torch.long)
    first = by_hand(model, prompt, NULL, none, W)
    pairs = torch.stack([first[a] + by_hand(model, prompt, NULL, torch.tensor([a]), W) for a in range(VOCABULARY)])
    best = pairs.argmax()
    assert made.sequences[0, -2:].tolist() == [int(best) // VOCABULARY, int(best) % VOCABULARY]


@decoders
def test_several_sequences_of_a_prompt(name):
    model, inputs = model_of(name), prompts(name, 5, 3)
    made, _ = guided(model, inputs, do_sample=True, num_return_sequences=3)
    check_scores(model, inputs, made, NULL, times=3)


@decoders
@pytest.mark.parametrize("draft", [{"assistant": 5}, {"assistant": 0}, {"lookup": 3}], ids=["other", "itself", "prompt"])
def test_assisted_decoding_makes_the_same_text(name, draft):
    model, inputs = model_of(name), prompts(name, 6)
    alone, _ = guided(model, inputs, count=12)
    helper = ({"assistant_model": model_of(name, draft["assistant"])} if "assistant" in draft
              else {"prompt_lookup_num_tokens": draft["lookup"]})
    if draft.get("assistant") == 0:
        helper = {"assistant_model": copy.deepcopy(model)}
    made, _ = guided(model, inputs, count=12, **helper)
    assert made.sequences.tolist() == alone.sequences.tolist()


def test_drafts_are_made_without_guidance(monkeypatch):
    """They are proposals: a null pass for each would be wasted."""
    model, helper, inputs = model_of("llama"), copy.deepcopy(model_of("llama", 5)), prompts("llama", 6)
    plain, given = helper.generate, []
    monkeypatch.setattr(helper, "generate", lambda *a, **k: given.append(k["logits_processor"]) or plain(*a, **k))
    guided(model, inputs, count=12, assistant_model=helper, repetition_penalty=1.1)
    assert given and all([type(one).__name__ for one in some] == ["RepetitionPenaltyLogitsProcessor"] for some in given)


@every
def test_rows_that_have_ended_do_not_touch_the_others(name):
    model, inputs = model_of(name, ends=True), prompts(name, 6, 3, 4, 5)
    model.generation_config.eos_token_id = [4, 6, 22]  # so that some rows end soon
    try:
        together, _ = guided(model, inputs, count=12)
        lengths = set()
        for row in range(4):
            alone, _ = guided(model, row_of(inputs, row), count=12)
            own = alone.sequences[0, -len(alone.scores):].tolist()
            there = together.sequences[row, -len(together.scores):].tolist()
            assert there[:len(own)] == own and set(there[len(own):]) <= {PAD}
            lengths.add(len(own))
        assert len(lengths) > 1, "the rows are to end at different places"
    finally:
        model.generation_config.eos_token_id = 2


@every
def test_nested_conditions_have_two_scales(name):
    model, inputs = model_of(name), prompts(name, 5, 4)
    text, speaker = torch.tensor([7, 8]), torch.tensor([3, 5, 11, 6])
    rules = (emag.Negative(1.3, negative="text"), emag.CFG(1.5))
    made, run = guided(model, inputs, *rules, null=speaker, given={"conditions": {"text": text}})
    for row in range(2):
        prompt, tokens = decoded(model, inputs, made, row)
        start = len(tokens) - len(made.scores)
        for i, scores in enumerate(made.scores):
            c, t, s = (logp(model, ids, tokens[:start + i]) for ids in (prompt, text, speaker))
            inner = t + 1.3 * (c - t)
            nested = (s + 1.5 * (inner - s)).log_softmax(-1)
            close(scores[row], nested, atol=1e-4, rtol=1e-4)
            added = (s + 1.5 * (c - s) + 1.3 * (c - t)).log_softmax(-1)
            assert not torch.allclose(scores[row], added, atol=1e-2)
    assert run.stats.passes == {"text": 8, "uncond": 8}


@every
def test_compose_says_the_same_by_coefficients(name):
    model, inputs = model_of(name), prompts(name, 5, 4)
    text, speaker = torch.tensor([7, 8]), torch.tensor([3, 5, 11, 6])
    given = {"conditions": {"text": text}}
    nested, _ = guided(model, inputs, emag.Negative(1.3, negative="text"), emag.CFG(1.5), null=speaker, given=given)
    terms = (emag.Term(1.5 * 1.3, "cond", "text"), emag.Term(1.5, "text", "uncond"))
    summed, _ = guided(model, inputs, emag.Compose("uncond", terms), null=speaker, given=given)
    for a, b in zip(nested.scores, summed.scores):
        close(a, b, atol=1e-4, rtol=1e-4)


@every
def test_logits_as_they_are_give_the_same_texts(name):
    model, inputs = model_of(name), prompts(name, 5, 4)
    log, _ = guided(model, inputs)
    raw, _ = guided(model, inputs, given={"space": "logits"})
    for a, b in zip(log.scores, raw.scores):
        close(a, b.log_softmax(-1), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(raw.scores[0], log.scores[0], atol=1e-2)


@every
def test_without_a_cache_of_the_call_the_branch_keeps_its_own(name):
    model, inputs = model_of(name), prompts(name, 5, 4)
    made, run = guided(model, inputs, use_cache=False)
    check_scores(model, inputs, made, NULL)
    assert run.stats.fed["uncond"] <= len(NULL) + 8


def test_a_sliding_window_forgets_and_the_branch_is_read_again():
    from small_words import MAKERS

    torch.manual_seed(0)
    name = "qwen2"
    model = MAKERS[name](use_sliding_window=True, sliding_window=3, max_window_layers=1).eval()
    model.generation_config.eos_token_id = None
    inputs = prompts(name, 6)
    alone, _ = guided(model, inputs, count=10)
    check_scores(model, inputs, alone, NULL)
    made, _ = guided(model, inputs, count=10, prompt_lookup_num_tokens=3)
    assert made.sequences.tolist() == alone.sequences.tolist()


@decoders
def test_a_static_cache_of_the_call(name):
    model, inputs = model_of(name), prompts(name, 5, 4)
    made, _ = guided(model, inputs, cache_implementation="static")
    check_scores(model, inputs, made, NULL)


def test_models_without_keys_and_values_are_refused():
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, state_size=2)).eval()
    with pytest.raises(emag.Unsupported, match="keys and values"):
        guided(model, prompts("llama", 5))
