"""Rules over tokens on real models: what they do, what they spare, and what is counted."""

import copy
import math

import pytest
import torch
from transformers import AttentionInterface

import emag
from emag.maths.logits import biased, soft_value_weights, token_entropy
from small_words import DECODERS, VOCABULARY, by_hand, decoded, generate, logp, model_of, prompts

NULL = torch.tensor([4, 9, 2])
W, COUNT = 1.7, 10
close = torch.testing.assert_close
decoders = pytest.mark.parametrize("name", DECODERS)


def guided(model, inputs, *rules, null=NULL, count=COUNT, given=None, **more):
    torch.manual_seed(3)
    with emag.tokens.guide(model, *rules, null=null, **(given or {})) as run:
        return generate(model, inputs, count, **more), run


def scores_at(model, inputs, made, scale):
    """(row, index, scores, the prompt's own log-probabilities, those of the definition at `scale`)."""
    for row in range(len(made.sequences)):
        prompt, tokens = decoded(model, inputs, made, row)
        for i, scores in enumerate(made.scores):
            yield row, i, scores[row], logp(model, prompt, tokens[:i]), by_hand(model, prompt, NULL, tokens[:i], scale)


@decoders
def test_a_schedule_runs_over_the_tokens_and_spares_those_at_1(name):
    model, inputs = model_of(name), prompts(name, 6, 3)
    made, run = guided(model, inputs, emag.CFG(emag.Interval(W, 0.2, 0.7, "progress")))
    for _, i, scores, plain, by_rule in scores_at(model, inputs, made, W):
        close(scores, by_rule if 2 <= i < 7 else plain, atol=1e-4, rtol=1e-4)
    # what was missed is read in one pass
    assert run.stats.passes == {"uncond": 5} and run.stats.fed == {"uncond": len(NULL) + 6}


@decoders
def test_a_curve_runs_over_the_tokens(name):
    model, inputs = model_of(name), prompts(name, 6)
    made, _ = guided(model, inputs, emag.CFG(emag.Curve(3.0)))
    prompt, tokens = decoded(model, inputs, made, 0)
    for i, scores in enumerate(made.scores):
        w = 1 + 2 * 2 * i / (COUNT - 1)
        close(scores[0], by_hand(model, prompt, NULL, tokens[:i], w), atol=1e-4, rtol=1e-4)


@decoders
@pytest.mark.parametrize("times", [1, 3])
def test_unsure_tokens_alone_are_guided_row_by_row(name, times):
    model, inputs = model_of(name), prompts(name, 6, 3)
    middle = 2.1 if name == "llama" else 1.0
    more = {"do_sample": True} if times == 1 else {"num_beams": times}
    made, run = guided(model, inputs, emag.tokens.MTI(W, threshold=middle), **more)
    if times == 1:
        seen = []
        for _, i, scores, plain, by_rule in scores_at(model, inputs, made, W):
            unsure = bool(token_entropy(plain) > middle)
            close(scores, by_rule if unsure else plain, atol=1e-4, rtol=1e-4)
            seen.append((i, unsure))
        needed = {i for i, unsure in seen if unsure}
        assert 0 < len(needed) < COUNT and run.stats.passes == {"uncond": len(needed)}
    every, _ = guided(model, inputs, emag.tokens.MTI(W, threshold=-1.0), **more)
    cfg, _ = guided(model, inputs, emag.CFG(W), **more)
    assert every.sequences.tolist() == cfg.sequences.tolist()
    none, run = guided(model, inputs, emag.tokens.MTI(W, threshold=math.log(VOCABULARY) + 1e-4), **more)
    torch.manual_seed(3)
    assert none.sequences.tolist() == generate(model, inputs, COUNT, **more).sequences.tolist() and run.stats.passes == {}


def test_rows_that_have_ended_ask_for_nothing():
    model, inputs = model_of("llama"), prompts("llama", 6, 3)
    first = generate(model, inputs, COUNT).sequences[0, 6 + 1]  # row 0 ends at its second token
    made, run = guided(model, inputs, emag.tokens.MTI(1.0 + 1e-9, threshold=1.9), eos_token_id=int(first), pad_token_id=0)
    needed, ended = set(), [False, False]
    for i, scores in enumerate(made.scores):
        unsure = [float(token_entropy(scores[row])) > 1.9 for row in range(2)]
        needed |= {i} if any(u and not e for u, e in zip(unsure, ended)) else set()
        ended = [e or int(made.sequences[row, 6 + i]) == int(first) for row, e in enumerate(ended)]
    assert run.stats.passes == {"uncond": len(needed)} and ended[0] and len(needed) < len(made.scores)


@decoders
def test_the_null_is_spared_once_both_agree(name):
    model, inputs = model_of(name), prompts(name, 6, 3)
    made, run = guided(model, inputs, emag.AG(threshold=0.6, on="logp"), emag.CFG(W), do_sample=True)
    agreed, last = [False, False], 0
    for i, scores in enumerate(made.scores):
        for row in range(2):
            prompt, tokens = decoded(model, inputs, made, row)
            c, u = logp(model, prompt, tokens[:i]), logp(model, NULL, tokens[:i])
            close(scores[row], c if agreed[row] else by_hand(model, prompt, NULL, tokens[:i], W), atol=1e-4, rtol=1e-4)
        last = i if all(agreed) else last
        if not all(agreed):
            count = i + 1
        for row in range(2):
            prompt, tokens = decoded(model, inputs, made, row)
            c, u = logp(model, prompt, tokens[:i]), logp(model, NULL, tokens[:i])
            agreed[row] |= bool(torch.cosine_similarity(c, u, dim=0) >= 0.6)
    assert run.stats.passes == {"uncond": count} and count < COUNT


@decoders
def test_softened_values_are_those_of_the_definition(name):
    model, inputs = model_of(name), prompts(name, 6, 3)
    made, run = guided(model, inputs, emag.tokens.SoftCFG(W), count=7)
    plain, _ = guided(model, inputs, emag.CFG(W), count=7)
    for row in range(2):
        prompt, tokens = decoded(model, inputs, made, row)
        sure = [logp(model, prompt, tokens[:i]).exp().max() for i in range(7)]
        for i, scores in enumerate(made.scores):
            c, u = logp(model, prompt, tokens[:i]), _softened(model, tokens[:i], sure)
            close(scores[row], (u + W * (c - u)).log_softmax(-1), atol=1e-4, rtol=1e-4)
    close(made.scores[0], plain.scores[0])
    assert not torch.allclose(made.scores[1], plain.scores[1], atol=1e-3)
    assert run.stats.passes == {"uncond": 7} and run.stats.fed == {"uncond": len(NULL) + 6}


def _softened(model, tokens, sure):
    """The null's log-probabilities, each token having seen the values before it as they counted when it was read."""
    size, start = len(NULL) + len(tokens), len(NULL)
    weights = torch.ones(size, size)
    for i in range(len(tokens)):  # token i is read once the confidences up to its own are known
        weights[start + i, start:start + i + 1] = soft_value_weights(torch.stack(sure[:i + 1]))

    def softened(module, query, key, value, mask, scaling, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        causal = torch.full((size, size), -torch.inf).triu(1)
        shares = (query @ key.mT * scaling + causal).softmax(-1)
        return ((shares * weights) @ value).transpose(1, 2), shares

    AttentionInterface.register("softened", softened)
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("softened")
    return logp(twin, NULL, tokens)


def class_scorer(ids, candidates):
    """A made-up class: texts whose tokens add up to an even number, with some doubt."""
    total = ids.sum(1, keepdim=True) + candidates
    return torch.where(total % 2 == 0, 0.9, 0.1).log()


@decoders
def test_a_classifier_weighs_the_likeliest_tokens(name):
    model, inputs = model_of(name), prompts(name, 6, 3)
    made, run = guided(model, inputs, emag.tokens.CAIF(2.0, top=5), null=None, given={"scorers": {"scorer": class_scorer}})
    for row in range(2):
        prompt, tokens = decoded(model, inputs, made, row)
        for i, scores in enumerate(made.scores):
            p = logp(model, prompt, tokens[:i])
            top = p.topk(5).indices
            text = torch.cat([prompt, tokens[:i]])[None]
            expected = torch.full_like(p, -torch.inf)
            expected[top] = p[top] + 2.0 * class_scorer(text, top[None])[0]
            close(scores[row], expected.log_softmax(-1), atol=1e-4, rtol=1e-4)
    assert run.stats.scored == COUNT and run.stats.passes == {}


def test_a_classifier_is_asked_once_in_a_period_and_where_the_model_is_unsure():
    model, inputs = model_of("llama"), prompts("llama", 6, 3)
    rule, asked = emag.tokens.CAIF(2.0, top=5, period=3, entropy=1.5), []
    made, run = guided(model, inputs, rule, null=None, given={"scorers": {"scorer": class_scorer}}, do_sample=True)
    for row in range(2):
        prompt, tokens = decoded(model, inputs, made, row)
        for i, scores in enumerate(made.scores):
            p = logp(model, prompt, tokens[:i])
            weighed = i % 3 == 0 and float(token_entropy(p)) >= 1.5
            expected = p
            if weighed:
                top = p.topk(5).indices
                expected = torch.full_like(p, -torch.inf)
                expected[top] = p[top] + 2.0 * class_scorer(torch.cat([prompt, tokens[:i]])[None], top[None])[0]
            close(scores[row], expected.log_softmax(-1), atol=1e-4, rtol=1e-4)
            asked += [i] * weighed
    assert run.stats.scored == len(set(asked)) and 0 < len(asked) < 8  # of 4 tokens of two rows
    with pytest.raises(emag.BadValue, match="period"):
        emag.tokens.CAIF(2.0, period=0)


@decoders
def test_a_classifier_that_knows_nothing_leaves_the_likeliest_tokens(name):
    model, inputs = model_of(name), prompts(name, 6)
    even = {"scorers": {"scorer": lambda ids, candidates: torch.full(candidates.shape, math.log(0.5))}}
    made, _ = guided(model, inputs, emag.tokens.CAIF(5.0, top=4), null=None, given=even)
    plain = generate(model, inputs, COUNT, top_k=4, do_sample=False)
    assert made.sequences.tolist() == plain.sequences.tolist()
    assert [int(scores.isfinite().sum()) for scores in made.scores] == [4] * COUNT


@decoders
def test_class_conditional_models_weigh_all_tokens(name):
    model, inputs, guide = model_of(name), prompts(name, 6, 3), model_of(name, 4)
    wanted, other = torch.tensor([5, 6]), torch.tensor([7])
    scorer = emag.tokens.ClassModel(guide, wanted, other, prompt=inputs["input_ids"].shape[1])
    made, run = guided(model, inputs, emag.tokens.GeDi(3.0, mass=0.0), null=None, given={"scorers": {"scorer": scorer}})
    for row in range(2):
        prompt, tokens = decoded(model, inputs, made, row)
        for i, scores in enumerate(made.scores):
            p = logp(model, prompt, tokens[:i])
            both = torch.stack([_text(guide, code, tokens[:i]) for code in (wanted, other)]) / (i + 1)
            close(scores[row], (p + 3.0 * both.log_softmax(0)[0]).log_softmax(-1), atol=1e-4, rtol=1e-4)
    assert run.stats.scored == COUNT


@pytest.mark.parametrize("bias", [0.7, (0.9, 0.2)], ids=["of both", "of each"])
def test_a_guide_has_its_own_scale_and_bias(bias):
    """P = softmax(scale l + bias) over both codes: given, or learned by the model, or moved by the rule's class bias."""
    guide, codes, ids = model_of("llama", 4), (torch.tensor([5, 6]), torch.tensor([7])), torch.tensor([[8, 9, 3]])
    every = torch.arange(VOCABULARY)[None]
    each = torch.stack([_text(guide, code, ids[0]) for code in codes]) / 4
    right = (1.6 * each + torch.tensor([0.7, 0.0])[:, None]).log_softmax(0)[0]
    close(emag.tokens.ClassModel(guide, *codes, scale=1.6, bias=bias)(ids, every)[0], right, atol=1e-5, rtol=1e-5)
    learned = copy.deepcopy(guide)
    learned.logit_scale = torch.nn.Parameter(torch.tensor([1.6]))
    plain = emag.tokens.ClassModel(learned, *codes)(ids, every)[0]
    close(biased(plain, 0.7), right, atol=1e-5, rtol=1e-5)
    learned.bias = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(emag.BadValue, match="of wanted, of other"):
        emag.tokens.ClassModel(learned, *codes)


def test_a_class_bias_moves_the_target_along():
    """Judged for the filter as without it, weighed by the biased odds; the least token of the class stays out."""
    p, score = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log(), torch.tensor([[0.95, 0.85, 0.5, 0.05]]).log()
    rule = emag.tokens.GeDi(2.0, mass=0.8, target=0.8, bias=2.0)
    step = None  # neither the step nor a state has a say
    made = rule.apply(p, {rule.weak[0]: score}, step, {})
    odds = (score.exp() / (1 - score.exp())).log() + 2.0
    shifted = torch.sigmoid(torch.tensor(0.8).logit() + 2.0)
    assert made[0].isfinite().tolist() == (torch.sigmoid(odds)[0] >= shifted).tolist() == [True, True, False, False]
    close(made[0, :2], (p + 2.0 * torch.nn.functional.logsigmoid(odds))[0, :2])
    assert biased(torch.tensor([0.0, -math.inf]), 2.0).tolist() == [0.0, -math.inf]


def _text(model, code, tokens):
    """Log-probability of the tokens and each next one, after a code."""
    before = sum((logp(model, code, tokens[:i])[tokens[i]] for i in range(len(tokens))), torch.zeros(()))
    return before + logp(model, code, tokens)


@decoders
def test_equal_class_models_say_one_half_and_change_nothing(name):
    model, inputs, guide = model_of(name), prompts(name, 6), model_of(name, 4)
    code = torch.tensor([5, 6])
    scorer = emag.tokens.ClassModel(guide, code, code, prompt=6)
    made, _ = guided(model, inputs, emag.tokens.GeDi(30.0, mass=0.0), null=None, given={"scorers": {"scorer": scorer}})
    assert made.sequences.tolist() == generate(model, inputs, COUNT).sequences.tolist()


@pytest.mark.parametrize("more", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_another_model_says_what_texts_are_like(more):
    """Guided captioning, arXiv 2307.16686: log q + alpha c - beta u, each from its whole text."""
    model, inputs, other, start = model_of("llama"), prompts("llama", 6), model_of("qwen2"), torch.tensor([1])
    scorer = emag.tokens.LanguageModel(other, start, prompt=6)
    made, run = guided(model, inputs, emag.tokens.LMGuidance(1.2, 0.8), given={"scorers": {"scorer": scorer}}, **more)
    prompt, tokens = decoded(model, inputs, made, 0)
    right = [(logp(other, start, tokens[:i]) + 1.2 * logp(model, prompt, tokens[:i])
              - 0.8 * logp(model, NULL, tokens[:i])).log_softmax(-1) for i in range(COUNT)]
    if more:
        total = sum(float(right[i][tokens[i]]) for i in range(COUNT))
        assert float(made.sequences_scores[0]) == pytest.approx(total / COUNT, abs=1e-4)
    else:
        for scores, one in zip(made.scores, right, strict=True):
            close(scores[0], one, atol=1e-4, rtol=1e-4)
    assert run.stats.passes == run.plan(COUNT) == {"uncond": COUNT} and run.stats.scored == COUNT


@decoders
def test_rules_after_work_on_what_the_combining_one_gives(name):
    model, inputs = model_of(name), prompts(name, 6)
    rules = (emag.CFG(W), emag.tokens.CAIF(2.0, top=VOCABULARY))
    made, _ = guided(model, inputs, *rules, given={"scorers": {"scorer": class_scorer}})
    prompt, tokens = decoded(model, inputs, made, 0)
    every = torch.arange(VOCABULARY)[None]
    for i, scores in enumerate(made.scores):
        fits = class_scorer(torch.cat([prompt, tokens[:i]])[None], every)[0]
        pushed = by_hand(model, prompt, NULL, tokens[:i], W) + 2.0 * fits
        close(scores[0], pushed.log_softmax(-1), atol=1e-4, rtol=1e-4)


@decoders
def test_what_is_wanted_is_raised_and_what_is_not_is_lowered(name):
    model, inputs = model_of(name), prompts(name, 6, 3)
    phrases = emag.tokens.Phrases(mention=[[7, 8], [7, 9, 10]], avoid=[[5], [11, 12]], prompt=inputs["input_ids"].shape[1])
    rules, given = (emag.CFG(W), emag.tokens.CognacGen(mention=2.0, avoid=3.0)), {"scorers": {"scorer": phrases}}
    made, run = guided(model, inputs, *rules, given=given)
    assert run.stats.scored == COUNT
    for row in range(2):
        prompt, tokens = decoded(model, inputs, made, row)
        for i, scores in enumerate(made.scores):
            sign = phrases(torch.cat([inputs["input_ids"][row], tokens[:i]])[None], torch.arange(VOCABULARY)[None])[0]
            expected = by_hand(model, prompt, NULL, tokens[:i], W) + 2.0 * (sign == 1) - 3.0 * (sign == -1)
            close(scores[row], expected.log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_phrases_are_said_in_order_once_and_those_to_avoid_never():
    model, inputs = model_of("llama"), prompts("llama", 6, 3)
    length = inputs["input_ids"].shape[1]
    strong, texts = emag.tokens.CognacGen(mention=200.0, avoid=1000.0), []
    for avoid in ([], [[7, 8]]):
        given = {"scorers": {"scorer": emag.tokens.Phrases(mention=[[7, 8], [3, 4, 6]], avoid=avoid, prompt=length)}}
        made, _ = guided(model, inputs, strong, null=None, given=given, do_sample=True, count=14)
        texts += [" ".join(map(str, row[length:].tolist())) for row in made.sequences]
    assert all(text.startswith(("7 8 3 4 6", "3 4 6 7 8")) and text.count("7 8") == 1 for text in texts[:2])
    assert not any("7 8" in text for text in texts[2:])
    # two phrases that begin alike: after 7 both ways are open, and no third
    signs = emag.tokens.Phrases(mention=[[7, 8], [7, 9, 10]])(torch.tensor([[2, 7]]), torch.arange(12)[None])
    assert signs.nonzero()[:, 1].tolist() == [8, 9]


@pytest.mark.parametrize("scorer", [lambda ids, n: torch.full(n.shape, float("nan")), lambda ids, n: torch.zeros(1, 1)])
def test_what_is_no_answer_of_a_scorer_is_said(scorer):
    given = {"scorers": {"scorer": scorer}}
    with pytest.raises(emag.BadValue, match="numbers of shape"):
        guided(model_of("llama"), prompts("llama", 6), emag.tokens.CognacGen(), null=None, given=given)
    with pytest.raises(emag.BadValue, match="phrases"):
        emag.tokens.Phrases()


PLANS = {
    "cfg": ((emag.CFG(W),), True), "none": ((emag.CFG(1.0),), True),
    "interval": ((emag.CFG(emag.Interval(W, 0.2, 0.7, "progress")),), True), "curve": ((emag.CFG(emag.Curve(3.0)),), True),
    "nested": ((emag.Negative(1.3, negative="text"), emag.CFG(W)), True), "soft": ((emag.tokens.SoftCFG(W),), True),
    "compose": ((emag.Compose("cond", (emag.Term(0.5, "cond", "text"),)),), True),
    "mti": ((emag.tokens.MTI(W, threshold=2.1),), False), "ag": ((emag.AG(threshold=0.3, on="logp"), emag.CFG(W)), False),
}


@pytest.mark.parametrize(("rules", "exact"), PLANS.values(), ids=PLANS)
def test_counted_passes_are_those_of_the_plan(rules, exact):
    """Exactly; or at most, where the text itself decides which are spared."""
    model, inputs = model_of("llama"), prompts("llama", 6, 3)
    named = {rule.negative for rule in rules if isinstance(rule, emag.Negative)} | (
        {"text"} if isinstance(rules[0], emag.Compose) else set())
    null = None if isinstance(rules[0], emag.Compose) else NULL
    given = {"conditions": {name: torch.tensor([7, 8]) for name in named}}
    calls, hook = [], model.register_forward_hook(lambda *_: calls.append(1))
    try:
        _, run = guided(model, inputs, *rules, null=null, given=given)
    finally:
        hook.remove()
    plan, counted = run.plan(COUNT), run.stats.passes
    assert len(calls) == COUNT + sum(counted.values())
    assert counted == plan if exact else 0 < sum(counted.values()) < sum(plan.values()) == COUNT
