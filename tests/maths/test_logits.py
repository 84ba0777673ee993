"""Guidance of token logits: vocabulary 11, random logits, float64."""

import math

import pytest
import torch

from emag.errors import BadValue
from emag.maths.logits import (
    filtered,
    guide_logits,
    masked_guidance,
    remask,
    reweighted,
    selective,
    soft_value_weights,
    token_entropy,
)

RULES = {"log": guide_logits, "raw": masked_guidance}
BOTH = pytest.mark.parametrize("guide", RULES.values(), ids=RULES)
SCALES = pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5, 8.0])
BAD_SCALES = pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf")])
MASK = 10
close = torch.testing.assert_close


def logits(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*(shape or (4, 11)), generator=generator, dtype=torch.float64)


C, U = logits(0), logits(1)


def by_hand(p, q, scale):
    """The guided distribution from its definition, q^(1-w) p^w, normalised."""
    product = p**scale * q ** (1 - scale)
    return product / product.sum(-1, keepdim=True)


@BOTH
@SCALES
def test_the_guided_distribution_is_the_power_product(guide, scale):
    close(guide(C, U, scale).softmax(-1), by_hand(C.softmax(-1), U.softmax(-1), scale), atol=1e-12, rtol=1e-12)


@BOTH
@SCALES
def test_constants_added_to_the_logits_change_nothing(guide, scale):
    shift = logits(5, 4, 1)
    moved = guide(C + shift, U - 3 * shift, scale)
    close(moved.softmax(-1), guide(C, U, scale).softmax(-1), atol=1e-12, rtol=1e-12)
    assert torch.equal(moved.argmax(-1), guide(C, U, scale).argmax(-1))


@SCALES
def test_log_softmax_comes_first_and_raw_logits_stay_raw(scale):
    close(guide_logits(C + 5, U, scale), guide_logits(C, U, scale), atol=1e-12, rtol=1e-12)
    close(guide_logits(C, U, scale), U.log_softmax(-1) + scale * (C.log_softmax(-1) - U.log_softmax(-1)))
    close(masked_guidance(C + 5, U, scale), masked_guidance(C, U, scale) + 5 * scale)


def test_scale_1_is_cond_scale_0_uncond_and_equal_branches_stay_bit_for_bit():
    assert torch.equal(guide_logits(C, U, 1.0), C.log_softmax(-1)) and torch.equal(masked_guidance(C, U, 1.0), C)
    assert torch.equal(guide_logits(C, U, 0.0), U.log_softmax(-1)) and torch.equal(masked_guidance(C, U, 0.0), U)
    assert torch.equal(guide_logits(C, C, 7.3), C.log_softmax(-1)) and torch.equal(masked_guidance(C, C, 7.3), C)


@pytest.mark.parametrize("k", [0.0, 0.5, 3.0])
def test_additive_scales_convert_by_adding_1(k):
    close(masked_guidance(C, U, k + 1), C + k * (C - U))  # SoftCFG's form
    close(masked_guidance(C, U, k + 1), U + (k + 1) * (C - U))  # LLaDA's and A-CFG's


@BOTH
def test_excluded_tokens_keep_their_conditional_value(guide):
    c, u = C.clone(), U.clone()
    c[:, 2] = u[:, 2] = c[:, 3] = u[:, 4] = -torch.inf
    guided = guide(c, u, 3.0)
    assert (guided[:, [2, 3]] == -torch.inf).all() and not guided.isnan().any() and not guided.isposinf().any()
    expected = c if guide is masked_guidance else c.log_softmax(-1)
    assert torch.equal(guided[:, 4], expected[:, 4])


@BOTH
@BAD_SCALES
def test_scales_out_of_range(guide, scale):
    with pytest.raises(BadValue, match="scale"):
        guide(C, U, scale)


@BOTH
def test_branches_of_two_shapes(guide):
    with pytest.raises(BadValue, match="one shape"):
        guide(C, U[:1], 2.0)


def generation():
    """Four rows: nothing generated, 1, 5 and 7 tokens generated, after a prompt of 3."""
    tokens = torch.randint(0, MASK, (4, 10), generator=torch.Generator().manual_seed(0))
    for row, count in enumerate((0, 1, 5, 7)):
        tokens[row, 3 + count:] = MASK
    return tokens, logits(3, 4, 10, 11).softmax(-1), torch.arange(10) < 3


def masked_by_hand(tokens, probabilities, share, prompt):
    out = tokens.clone()
    for row in range(len(tokens)):
        at = [i for i in range(tokens.shape[1]) if not prompt[i] and tokens[row, i] != MASK]
        at.sort(key=lambda i: probabilities[row, i].max().item())
        out[row, at[:max(1, math.floor(share * len(at)))]] = MASK
    return out


@pytest.mark.parametrize("share", [0.01, 0.3, 0.4, 0.75, 1.0])
def test_the_least_sure_generated_tokens_are_masked(share):
    tokens, probabilities, prompt = generation()
    masked = remask(tokens, probabilities, MASK, share, prompt)
    assert torch.equal(masked, masked_by_hand(tokens, probabilities, share, prompt))
    assert torch.equal(masked[:, prompt], tokens[:, prompt])
    assert ((masked == MASK).sum(1) > (tokens == MASK).sum(1)).tolist() == [False, True, True, True]


def test_share_1_masks_all_that_was_generated():
    tokens, probabilities, prompt = generation()
    masked = remask(tokens, probabilities, MASK, 1.0, prompt)
    assert (masked[:, ~prompt] == MASK).all() and torch.equal(masked[:, prompt], tokens[:, prompt])


def test_at_the_first_step_the_weak_input_is_the_input_and_guidance_does_nothing():
    tokens, probabilities, prompt = generation()
    first = remask(tokens[:1], probabilities[:1], MASK, 0.5, prompt)
    assert torch.equal(first, tokens[:1])
    net = torch.nn.Embedding(11, 11, dtype=torch.float64)
    cond, uncond = (net(t).detach() for t in (tokens[:1], first))
    assert torch.equal(masked_guidance(cond, uncond, 2.0), cond)


def test_counts_are_floors_ties_go_to_the_first_and_prompts_may_differ_by_row():
    tokens, even = torch.zeros(1, 100, dtype=torch.long), torch.full((1, 100, 11), 1 / 11)
    masked = remask(tokens, even, MASK, 0.29, torch.zeros(100, dtype=torch.bool))
    assert (masked[0] == MASK).nonzero().flatten().tolist() == list(range(29))
    prompts = torch.tensor([[True, False, False], [True, True, False]])
    masked = remask(tokens[:, :3].expand(2, 3), even[:, :3].expand(2, 3, 11), MASK, 1.0, prompts)
    assert torch.equal(masked == MASK, ~prompts)


def test_remask_leaves_its_input_alone_and_refuses_what_it_cannot_use():
    tokens, probabilities, prompt = generation()
    before = tokens.clone()
    remask(tokens, probabilities, MASK, 1.0, prompt)
    assert torch.equal(tokens, before)
    for share in (0.0, 1.1, float("nan")):
        with pytest.raises(BadValue, match="share"):
            remask(tokens, probabilities, MASK, share, prompt)
    with pytest.raises(BadValue, match="probabilities"):
        remask(tokens, probabilities[:, :5], MASK, 0.5, prompt)
    with pytest.raises(BadValue, match="bool"):
        remask(tokens, probabilities, MASK, 0.5, prompt.long())


def test_value_weights_lose_1_in_all_and_most_where_the_model_was_sure():
    sure = torch.rand(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.9 + 0.05
    weights = soft_value_weights(sure)
    close((1 - weights).sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert torch.equal(weights.argsort(-1), sure.argsort(-1, descending=True))
    share = 1 - sure
    for i in range(6):  # the paper's form, with w = 1 - p
        close(weights[:, i], 1 - (1 - share[:, i]) / sum(1 - share[:, j] for j in range(6)))
    assert weights.min() >= 0 and weights.max() < 1


def test_one_token_weighs_nothing_and_many_equal_ones_almost_all():
    assert torch.equal(soft_value_weights(torch.tensor([0.37])), torch.zeros(1))
    close(soft_value_weights(torch.full((1000,), 0.5)), torch.full((1000,), 0.999))
    assert soft_value_weights(torch.ones(2, 0)).shape == (2, 0)


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.1, float("nan")])
def test_confidences_out_of_range(bad):
    with pytest.raises(BadValue, match="confidences"):
        soft_value_weights(torch.tensor([0.5, bad]))


ENTROPY = -(C.softmax(-1) * C.log_softmax(-1)).sum(-1)


def never():
    raise AssertionError("the unconditional branch was evaluated")


@pytest.mark.parametrize("threshold", [float("inf"), math.log(11) + 1e-9])
def test_no_row_above_the_threshold_is_cond_without_a_second_pass(threshold):
    assert torch.equal(selective(C, never, 3.0, threshold), C.log_softmax(-1))
    assert torch.equal(selective(C, U, 3.0, threshold), C.log_softmax(-1))


@SCALES
def test_a_threshold_below_0_is_cfg_at_every_token(scale):
    assert torch.equal(selective(C, lambda: U, scale, -1.0), guide_logits(C, U, scale))


def test_each_sequence_is_gated_by_its_own_entropy():
    threshold = ENTROPY.sort().values[1:3].mean().item()
    calls = []
    guided = selective(C, lambda: calls.append(0) or U, 3.0, threshold)
    unsure = ENTROPY.gt(threshold)
    assert unsure.sum() == 2 and len(calls) == 1
    assert torch.equal(guided[unsure], guide_logits(C, U, 3.0)[unsure])
    assert torch.equal(guided[~unsure], C.log_softmax(-1)[~unsure])
    for row in range(4):
        assert torch.equal(selective(C[row], U[row], 3.0, threshold), guided[row])


def test_the_threshold_is_in_nats_and_inclusive_of_cond():
    even = torch.zeros(1, 8, dtype=torch.float64)
    uncond = logits(4, 1, 8)
    assert torch.equal(selective(even, uncond, 2.0, math.log(8) - 1e-9), guide_logits(even, uncond, 2.0))
    assert torch.equal(selective(even, uncond, 2.0, math.log(8) + 1e-9), even.log_softmax(-1))
    two_of_three, other = torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([[1.0, 0.0, -torch.inf]])
    assert torch.equal(selective(two_of_three, other, 2.0, 0.6), guide_logits(two_of_three, other, 2.0))
    certain = torch.tensor([[0.0, -torch.inf]])
    assert torch.equal(selective(certain, never, 2.0, 0.0), certain)


def test_scale_1_evaluates_nothing_and_bad_values_are_refused_even_when_no_row_needs_them():
    assert torch.equal(selective(C, never, 1.0, -1.0), C.log_softmax(-1))
    for scale in (-0.1, float("nan"), float("inf")):
        with pytest.raises(BadValue, match="scale"):
            selective(C, U, scale, float("inf"))
    with pytest.raises(BadValue, match="threshold"):
        selective(C, U, 2.0, float("nan"))


SCORE = torch.nn.functional.logsigmoid(2 * logits(6))


@pytest.mark.parametrize("mass", [0.0, 0.3, 0.8, 0.99])
@pytest.mark.parametrize("target", [0.0, 0.4, 0.8, 1.0])
def test_the_filter_takes_the_tokens_that_fit_least(mass, target):
    kept = filtered(C, SCORE, mass, target)
    for row in range(len(C)):
        p, fits, gone = C[row].softmax(-1), SCORE[row].exp(), 0.0
        out = set()
        for token in fits.argsort().tolist():
            gone += float(p[token])
            if gone >= mass or fits[token] >= target:
                break
            out.add(token)
        assert set(kept[row].isneginf().nonzero().flatten().tolist()) == out
        stays = kept[row].isfinite()
        assert stays.any() and torch.equal(kept[row][stays], C[row][stays])
    assert (mass > 0 and target > 0) or torch.equal(kept, C)


def test_one_token_stays_whatever_is_asked():
    tiny = torch.full((1, 7), -50.0, dtype=torch.float64)
    assert filtered(torch.zeros(1, 7, dtype=torch.float64), tiny, 1 - 1e-12, 1.0).isfinite().sum() == 1


@pytest.mark.parametrize("strength", [-2.0, 0.0, 0.5, 5.0])
def test_a_score_weighs_as_a_power_of_the_class_probability(strength):
    expected = C.softmax(-1) * SCORE.exp() ** strength
    close(reweighted(C, SCORE, strength).softmax(-1), expected / expected.sum(-1, keepdim=True), atol=1e-12, rtol=1e-9)
    close(reweighted(C, SCORE + 3, strength).softmax(-1), reweighted(C, SCORE, strength).softmax(-1), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("strength", [-2.0, 0.0, 5.0])
def test_what_a_score_or_the_model_excludes_stays_so(strength):
    c, score = C.clone(), SCORE.clone()
    c[:, 3], score[:, 5] = -torch.inf, -torch.inf
    made = reweighted(c, score, strength)
    assert made[:, [3, 5]].isneginf().all() and not made.isnan().any() and made[:, [0, 1, 2, 4]].isfinite().all()
    assert not filtered(made, score, 0.8, 0.8).isnan().any()


def test_entropy_is_that_of_the_distribution():
    close(token_entropy(torch.zeros(2, 8)), torch.full((2,), math.log(8.0)))
    close(token_entropy(torch.tensor([[0.0, 0.0, -torch.inf]])), torch.tensor([math.log(2.0)]))
