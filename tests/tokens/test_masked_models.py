"""Masked diffusion over text, on a small BERT: the null masks the prompt (LLaDA), or what it is least sure of (A-CFG)."""

import functools

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

import emag
from emag.maths.logits import remask

MASK, SIZE = 22, 23
close = torch.testing.assert_close
PROMPT = torch.arange(8) < 3


@functools.cache
def model():
    torch.manual_seed(0)
    made = BertForMaskedLM(BertConfig(vocab_size=SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                      intermediate_size=32, max_position_embeddings=16)).eval()
    for weight in made.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    return made


def start(rows=2):
    tokens = torch.full((rows, 8), MASK)
    tokens[:, :3] = torch.randint(0, MASK, (rows, 3), generator=torch.Generator().manual_seed(1))
    return tokens


def logits(tokens):
    with torch.no_grad():
        return model()(tokens).logits


def unmask(tokens, guided):
    """The surest masked place of each row takes its likeliest token."""
    best = guided[..., :MASK].max(-1)
    at = best.values.masked_fill(tokens != MASK, -torch.inf).argmax(-1, keepdim=True)
    return tokens.scatter(1, at, best.indices.gather(1, at))


@pytest.mark.parametrize("share", [None, 0.5, 1.0], ids=["prompt", "half", "all"])
def test_each_step_is_the_definition(share):
    guide, tokens = emag.tokens.masked(model(), emag.CFG(2.5), MASK, share), start()
    for step in range(5):
        guided, c = guide(tokens, PROMPT), logits(tokens)
        hidden = tokens.masked_fill(PROMPT, MASK) if share is None else remask(tokens, c.softmax(-1), MASK, share, PROMPT)
        expected = logits(hidden) + 2.5 * (c - logits(hidden))
        close(guided, expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(guided, c) is (share is not None and step == 0)
        tokens = unmask(tokens, guided)
    # nothing is generated at the first step, and so nothing to mask again
    assert guide.passes == (10 if share is None else 9) and guide.steps == 5 and not (tokens == MASK).any()


def test_a_scale_of_1_calls_the_model_once():
    guide, tokens = emag.tokens.masked(model(), emag.CFG(1.0), MASK), start()
    assert torch.equal(guide(tokens, PROMPT), logits(tokens)) and guide.passes == 1


def test_a_schedule_runs_over_the_steps():
    guide, tokens = emag.tokens.masked(model(), emag.CFG(emag.Interval(2.5, 0.0, 0.5, "progress")), MASK, steps=4), start()
    made = [guide(tokens, PROMPT) for _ in range(4)]
    assert [torch.equal(one, logits(tokens)) for one in made] == [False, False, True, True] and guide.passes == 6
    guide.reset()
    assert torch.equal(guide(tokens, PROMPT), made[0])


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_row_of_a_batch_is_the_row_alone(share):
    tokens = start(3)
    tokens[1, 3:6], tokens[2, 3:5] = torch.tensor([4, 5, 6]), torch.tensor([7, 8])
    together = emag.tokens.masked(model(), emag.CFG(2.5), MASK, share)(tokens, PROMPT)
    for row in range(3):
        alone = emag.tokens.masked(model(), emag.CFG(2.5), MASK, share)(tokens[row:row + 1], PROMPT)
        close(together[row], alone[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("share", [None, 0.5])
def test_places_that_the_model_is_unsure_of_are_guided_and_no_others(share):
    """MTI over a masked text: each place by its own entropy; those of the prompt, which nobody fills in, do not count."""
    tokens = start()
    for _ in range(2):  # so that something is there to be masked again
        tokens = unmask(tokens, logits(tokens))
    c = logits(tokens)
    entropy = torch.special.entr(c.softmax(-1)).sum(-1)
    middle = float(entropy[:, 3:].median())
    guide = emag.tokens.masked(model(), emag.tokens.MTI(2.5, threshold=middle), MASK, share)
    hidden = tokens.masked_fill(PROMPT, MASK) if share is None else remask(tokens, c.softmax(-1), MASK, share, PROMPT)
    c, u = c.log_softmax(-1), logits(hidden).log_softmax(-1)
    unsure = (entropy > middle) & ~PROMPT
    assert unsure.any() and (~unsure[:, 3:]).any()
    close(guide(tokens, PROMPT), torch.where(unsure[..., None], u + 2.5 * (c - u), c), atol=1e-4, rtol=1e-4)
    for threshold, prompt in ((float(entropy[:, 3:].max()), PROMPT), (-1.0, torch.ones(8).bool())):
        sure = emag.tokens.masked(model(), emag.tokens.MTI(2.5, threshold=threshold), MASK, share)
        assert torch.equal(sure(tokens, prompt), c) and sure.passes == 1


def test_a_null_that_agrees_is_asked_no_more():
    ag, cfg, tokens = emag.AG(threshold=-0.99, on="logp"), emag.CFG(2.5), start()
    guide = emag.tokens.masked(model(), (ag, cfg), MASK)
    c, u = logits(tokens).log_softmax(-1), logits(tokens.masked_fill(PROMPT, MASK)).log_softmax(-1)
    close(guide(tokens, PROMPT), u + 2.5 * (c - u), atol=1e-4, rtol=1e-4)
    assert torch.equal(guide(tokens, PROMPT), c) and guide.passes == 3
    never = emag.tokens.masked(model(), (emag.AG(threshold=1.0, on="logp"), cfg), MASK)
    close(never(tokens, PROMPT), u + 2.5 * (c - u), atol=1e-4, rtol=1e-4)
    never(tokens, PROMPT)
    assert never.passes == 4


def test_what_cannot_work_is_refused():
    with pytest.raises(emag.Unsupported, match="soft-cfg"):
        emag.tokens.masked(model(), emag.tokens.SoftCFG(2.0), MASK)
    with pytest.raises(emag.Unsupported, match="another text at every step"):
        emag.tokens.masked(model(), (emag.AG(0.9, on="logp"), emag.CFG(2.0)), MASK, share=0.5)
    with pytest.raises(emag.BadValue, match="nothing reads here"):
        emag.tokens.masked(model(), emag.AG(0.9, on="logp"), MASK)
    with pytest.raises(emag.BadValue, match="share"):
        emag.tokens.masked(model(), emag.CFG(2.0), MASK, share=0.0)
    with pytest.raises(emag.BadValue, match="number of tokens"):
        emag.tokens.masked(model(), emag.CFG(emag.Curve(2.0)), MASK)
