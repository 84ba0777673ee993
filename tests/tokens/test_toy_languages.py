"""Languages small enough to count: two tokens, a or b and then x or y, under prompts whose probabilities are written down.

The model is a table that keeps no cache, so that branches read their whole text each time."""

import itertools
from types import SimpleNamespace

import pytest
import torch

import emag

FULL, TEXT, NONE, A, B, X, Y = range(7)
close = torch.testing.assert_close
# P(a | prompt), P(x | prompt, a), P(x | prompt, b)
TABLE = {FULL: (0.9, 0.01, 0.9), TEXT: (0.5, 0.4, 0.7), NONE: (0.3, 0.2, 0.6)}


class Table(torch.nn.Module):
    """Logits by prompt (the first token) and last token; `shift` is added to all logits of a prompt."""

    config = SimpleNamespace(is_encoder_decoder=False)
    device = torch.device("cpu")

    def __init__(self, shift=None):
        super().__init__()
        self.shift = shift or {}

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, return_dict=None):
        rows = [self.next_token(int(row[0]), row[1:].tolist()) for row in input_ids]
        return SimpleNamespace(logits=torch.stack(rows)[:, None], past_key_values=None)

    def next_token(self, prompt, text):
        first, after_a, after_b = TABLE[prompt]
        logits = torch.full((7,), -torch.inf)
        low, p = (A, first) if not text else (X, after_a if text[-1] == A else after_b)
        logits[low], logits[low + 1] = torch.tensor([p, 1 - p]).log()
        return logits + self.shift.get(prompt, 0.0)


def texts(model, *rules, **given):
    """Probability of each of the four texts under a guidance."""
    guide, found = emag.tokens.processor(model, *rules, **given), {}
    for text in itertools.product((A, B), (X, Y)):
        ids, total = torch.tensor([[FULL]]), 1.0
        guide.reset()
        for token in text:
            guided = guide(ids, model(ids).logits[:, -1])
            total *= float(guided.softmax(-1)[0, token])
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        found["".join("abxy"[token - A] for token in text)] = total
    assert sum(found.values()) == pytest.approx(1, abs=1e-6)
    return found


def product(*experts):
    """Closed form: the product of experts (prompt, exponent) at each token, normalised there."""
    def step(probabilities):
        weights = [1.0, 1.0]
        for (_, power), p in zip(experts, probabilities):
            weights = [weights[0] * p**power, weights[1] * (1 - p)**power]
        return weights[0] / sum(weights)

    first, after_a, after_b = (step([TABLE[prompt][i] for prompt, _ in experts]) for i in range(3))
    return {"ax": first * after_a, "ay": first * (1 - after_a),
            "bx": (1 - first) * after_b, "by": (1 - first) * (1 - after_b)}


def near(found, expected):
    assert found == pytest.approx(expected, abs=1e-5)


NULL, CONDITION = torch.tensor([NONE]), {"text": torch.tensor([TEXT])}


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 1.5, 3.0])
def test_guidance_is_a_product_of_experts(w):
    near(texts(Table(), emag.CFG(w), null=NULL), product((FULL, w), (NONE, 1 - w)))


@pytest.mark.parametrize("w", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("space", ["logp", "logits"])
def test_what_is_added_to_all_logits_of_a_branch_changes_nothing(w, space):
    moved = Table({FULL: 5.0, NONE: -3.0})
    near(texts(moved, emag.CFG(w), null=NULL, space=space), texts(Table(), emag.CFG(w), null=NULL))


@pytest.mark.parametrize(("text", "speaker"), [(1.3, 1.5), (3.0, 1.5)], ids=["covoc", "voxinstruct"])
def test_nested_scales_multiply(text, speaker):
    rules = (emag.Negative(text, negative="text"), emag.CFG(speaker))
    found = texts(Table(), *rules, null=NULL, conditions=CONDITION)
    nested = product((FULL, text * speaker), (TEXT, speaker * (1 - text)), (NONE, 1 - speaker))
    near(found, nested)
    # s + gs (c - s) + gt (c - t) has the same weights only where gs gt = gs + gt: at (3, 1.5) by chance, not at (1.3, 1.5)
    added = product((FULL, text + speaker), (TEXT, -text), (NONE, 1 - speaker))
    same = abs(text * speaker - text - speaker) < 1e-9
    assert (added == pytest.approx(found, abs=1e-5)) is same and same is (text == 3.0)


def test_a_scale_of_1_inside_leaves_the_outer_one():
    inner = texts(Table(), emag.Negative(1.0 + 1e-9, negative="text"), emag.CFG(1.5), null=NULL, conditions=CONDITION)
    near(inner, texts(Table(), emag.CFG(1.5), null=NULL))


@pytest.mark.parametrize(("alpha", "beta"), [(1.2, 0.8), (1.2, 1.2), (0.7, 0.0)])
def test_captions_guided_by_a_language_model_have_exponents_of_their_own(alpha, beta):
    """q p(token | image)^alpha / p^beta, which sum to 1 + alpha - beta: no weights of a compose unless both are equal."""
    language = emag.tokens.LanguageModel(Table(), torch.tensor([TEXT]), prompt=1)
    found = texts(Table(), emag.tokens.LMGuidance(alpha, beta), null=NULL, scorers={"scorer": language})
    near(found, product((FULL, alpha), (TEXT, 1.0), (NONE, -beta)))
    terms = (emag.Term(alpha, "cond", "uncond"), emag.Term(1.0, "text", "uncond"))
    summed = texts(Table(), emag.Compose("uncond", terms), null=NULL, conditions=CONDITION)
    assert (summed == pytest.approx(found, abs=1e-5)) is (alpha == beta)


def test_a_language_model_that_is_the_captioner_without_its_image_leaves_it_alone():
    language = emag.tokens.LanguageModel(Table(), NULL, prompt=1)
    found = texts(Table(), emag.tokens.LMGuidance(1.0, 1.0), null=NULL, scorers={"scorer": language})
    near(found, product((FULL, 1.0)))
    # what it gives to a new line is given to the end, in the log: log(p(x) + p(y)) = 0
    ended = emag.tokens.LanguageModel(Table(), NULL, prompt=1, newline=X, end=Y)
    scores = ended(torch.tensor([[FULL, A]]), torch.arange(7)[None])[0]
    assert float(scores[Y]) == pytest.approx(0, abs=1e-6) and scores[X].isneginf()
    for wrong, says in ((lambda: emag.tokens.LanguageModel(Table(), NULL, newline=X), "together"),
                        (lambda: emag.tokens.LanguageModel(Table(), NULL[:0]), "at least one"),
                        (lambda: ended(torch.tensor([[FULL, A]]), torch.arange(9)[None]), "one vocabulary"),
                        (lambda: emag.tokens.LMGuidance(-1.0, 1.0), "at least 0"),
                        (lambda: texts(Table(), emag.tokens.LMGuidance(1.0), scorers={"scorer": ended}), "give both")):
        with pytest.raises(emag.BadValue, match=says):
            wrong()


def test_where_no_token_is_left_it_is_said():
    """Normalised, nothing but minus infinity would be NaN, of which decoding takes the first token without a word."""
    for rule in (emag.tokens.CAIF(2.0), emag.tokens.LMGuidance(1.0, 0.0)):
        nothing = {"scorer": lambda ids, candidates: torch.full(candidates.shape, -torch.inf)}
        with pytest.raises(emag.NotFinite, match="exclude every token"):
            texts(Table(), rule, null=NULL if rule.kind == "combining" else None, scorers=nothing)


def test_masking_is_not_conditioning():
    """Only texts that end with x are allowed. A mask keeps to a, which is likely, and is forced to the unlikely x."""
    masked = {A: 0.9, B: 0.1}
    likely = TABLE[FULL]
    conditioned = likely[0] * likely[1] / (likely[0] * likely[1] + (1 - likely[0]) * likely[2])
    assert masked[A] == pytest.approx(0.900) and conditioned == pytest.approx(0.091, abs=5e-4)
    model, ends_x = Table(), torch.tensor([A, B, X])
    guide = emag.tokens.processor(model, emag.CFG(1.0), null=NULL)

    def only(ids):
        scores = guide(ids, model(ids).logits[:, -1])
        keep = torch.zeros(7, dtype=torch.bool).index_fill(0, ends_x, True)
        return scores.masked_fill(~keep, -torch.inf).softmax(-1)[0]

    start = torch.tensor([[FULL]])
    after_a = torch.tensor([[FULL, A]])
    assert float(only(start)[A] * only(after_a)[X]) == pytest.approx(0.900, abs=1e-5)
    # a scorer that knows how a text can still end conditions: weigh a by P(x | a), b by P(x | b)
    ahead = {A: likely[1], B: likely[2], X: 1.0, Y: 1e-30}

    def scorer(ids, candidates):
        return torch.tensor([[ahead.get(int(token), 1.0) for token in row] for row in candidates]).log()

    found = texts(model, emag.tokens.CAIF(1.0, top=7), scorers={"scorer": scorer})
    assert found["ax"] == pytest.approx(conditioned, abs=1e-5) and found["ax"] + found["bx"] == pytest.approx(1)
