"""Objectives by likelihood, preference, reward and features: optima in closed form, float64."""

import math
from types import SimpleNamespace

import pytest
import torch

from emag.errors import BadValue
from emag.objectives import (
    OBJECTIVES,
    cca_loss,
    distillation_loss,
    distilled_base_advice,
    diversity_reward,
    dpo_loss,
    fused_embedding,
    guided_kl,
    nft_decay,
    nft_loss,
    nft_reward,
    noise_loss,
    npo_loss,
    npo_weights,
    raised_noise,
    reneg_loss,
    self_npo_loss,
    self_perceptual_loss,
)
from tables import DIM, random

close = torch.testing.assert_close


JOINT = random(4, 4, 3).flatten().softmax(0).view(4, 3)  # p(x, c) of 4 x and 3 conditions
GIVEN, MARGINAL = JOINT / JOINT.sum(0), JOINT.sum(1, keepdim=True)
PLACES = [(x, c) for x in range(4) for c in range(3)]


@pytest.mark.parametrize(("beta", "weight"), [(0.5, 1.0), (1.0, 4.0), (2.0, 0.5)])
def test_cca_reaches_its_optimum_on_a_table(beta, weight):
    """Own pairs come with p(x, c), others with p(x) p(c): written out, each pair as often as its probability says."""
    ratio = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([ratio], max_iter=500, tolerance_grad=1e-14, tolerance_change=0,
                                  line_search_fn="strong_wolfe")
    apart = MARGINAL * JOINT.sum(0, keepdim=True)
    never = torch.zeros(1, dtype=torch.bool)
    zero = torch.zeros(1, dtype=torch.float64)

    def loss():
        optimizer.zero_grad()
        # a row of own and one of another's, weighted by how often each comes; what stays of the other row at 0 is constant
        own = sum(JOINT[at] * cca_loss(ratio[at][None], zero, zero, zero, never, beta, weight) for at in PLACES)
        other = sum(apart[at] * cca_loss(zero, zero, ratio[at][None], zero, never, beta, weight) for at in PLACES)
        (own + other).backward()
        return own + other

    optimizer.step(loss)
    close(ratio.detach(), ((GIVEN / MARGINAL).log() - math.log(weight)) / beta, atol=1e-6, rtol=0)
    # normalised, it is guidance of likelihoods by 1 + 1 / beta
    scale = OBJECTIVES["cca"].baked(beta)
    close((GIVEN.log() + ratio.detach()).softmax(0), (MARGINAL.log() + scale * (GIVEN / MARGINAL).log()).softmax(0))


def test_cca_at_the_reference_and_for_labels_that_agree():
    logs, none = random(1, 5), torch.zeros(5, dtype=torch.bool)
    for weight in (0.5, 300.0):
        close(cca_loss(logs, logs, logs, logs, none, weight=weight).item(), (1 + weight) * math.log(2) / max(weight, 1))
    # a pair that agrees after all counts as a true one, at weight 1
    other = random(2, 5)
    agreed = cca_loss(logs, logs, other, logs, ~none, 0.5, 2.0)
    close(agreed, cca_loss(other, logs, logs, logs, ~none, 0.5, 2.0))
    assert agreed < cca_loss(logs, logs, logs - 9, logs, ~none, 0.5, 2.0)


def test_a_student_at_the_guided_logits_is_at_distance_0():
    cond, null = random(0, 2, 3, 5), random(1, 2, 3, 5)
    student = (null + 2.5 * (cond - null)).requires_grad_()
    loss = guided_kl(student, cond, null, 2.5)
    assert loss.abs() < 1e-12 and torch.autograd.grad(loss, student)[0].abs().max() < 1e-6
    p, q = cond.softmax(-1), (null + 2.5 * (cond - null)).softmax(-1)
    close(guided_kl(cond, cond, null, 2.5), (p * (p / q).log()).sum(-1).sum(-1).mean())


def test_diversity_is_0_for_equal_samples_and_1_for_orthogonal_ones():
    rewards = diversity_reward(torch.stack([torch.ones(3, 3), torch.eye(3)]).double())
    close(rewards, torch.tensor([0.0, 1.0], dtype=torch.float64))
    one = random(1, 1, 4, 6)
    unit = one[0] / one[0].norm(dim=1, keepdim=True)
    pairs = [float(unit[i] @ unit[j]) for i in range(4) for j in range(i)]
    assert diversity_reward(one).item() == pytest.approx(1 - sum(pairs) / len(pairs))
    with pytest.raises(BadValue, match="2 samples or more"):
        diversity_reward(one[:, :1])


def test_a_learned_negative_brings_the_reward_to_its_top():
    """e(n) = A x + b n and a reward -|x0 - m|^2 / 2: the best n is known."""
    x, m, cond = random(0, 1, 4), random(1, 1, 4), random(2, 1, 4).requires_grad_()
    a, b, scale, alpha, sigma = random(3, 4, 4), 0.7, 4.0, 0.8, 0.6
    n = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)

    def loss():
        return reneg_loss(x @ a + b * n, cond, x, alpha, sigma, scale, lambda x0: -0.5 * (x0 - m).square().sum(1))

    for _ in range(300):
        grads = torch.autograd.grad(loss(), (n, cond), allow_unused=True)
        assert grads[1] is None
        n = (n - 0.2 * grads[0]).detach().requires_grad_()
    best = (((x - alpha * m) / sigma - scale * cond) / (1 - scale) - x @ a) / b
    close(n.detach(), best.detach(), atol=1e-6, rtol=0)


def test_a_refined_noise_has_the_gradient_of_a_product():
    noise, target, net = random(0, 2, 3).requires_grad_(), random(1, 2, 3), random(2, 3, 3)
    steps = [(0.9, 0.2), (1.1, -0.4), (0.7, 0.1)]
    loss = noise_loss(noise, steps, lambda x, _: x @ net, target)
    x = noise.detach()
    for a, b in steps:
        x = a * x + b * (x @ net)
    close(loss, (x - target).square().mean())
    product = math.prod(a for a, _ in steps)
    close(torch.autograd.grad(loss, noise)[0], 2 * product * (x - target) / x.numel())


def test_npo_is_dpo_with_the_pair_swapped_and_its_optimum_is_the_odds():
    errors = random(0, 4, 6).square()
    assert npo_loss(*errors[:2], *errors[2:]) == dpo_loss(*errors[2:], *errors[:2])
    assert dpo_loss(errors[0], errors[0], errors[1], errors[1]).item() == pytest.approx(math.log(2))
    # where a share p of raters prefers the first, the margin -beta / 2 (difference of errors) comes to log(p / (1 - p))
    p, beta, zero = 0.8, 3.0, torch.zeros(1, dtype=torch.float64)
    error = zero.clone().requires_grad_()
    for _ in range(300):
        loss = p * dpo_loss(error, zero, zero, zero, beta) + (1 - p) * npo_loss(error, zero, zero, zero, beta)
        error = (error - 2 * torch.autograd.grad(loss, error)[0]).detach().requires_grad_()
    assert -beta / 2 * error.item() == pytest.approx(math.log(p / (1 - p)), abs=1e-6)


def test_weights_of_bad_taste_are_sums():
    base, preferred = {"a": random(0, 2), "b": random(1, 2)}, {"a": random(2, 2), "b": random(3, 2)}
    delta = {"a": random(4, 2)}
    made = npo_weights(base, preferred, delta, 0.5, 2.0)
    close(made["a"], 0.5 * base["a"] + 0.5 * preferred["a"] + 2 * delta["a"])
    close(made["b"], 0.5 * base["b"] + 0.5 * preferred["b"])
    with pytest.raises(BadValue, match="c cannot be matched"):
        npo_weights(base, preferred, {"c": random(0, 2)})


def test_raised_noise_has_the_spread_of_noise_added_at_once():
    now, then = (0.9, 0.3), (0.5, 0.8)
    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    parts = (now[0] * one, none), (now[1] * one, none), (none, one)
    by_x0, by_old, by_new = (raised_noise(x, n, now, then) for x, n in parts)
    close(by_x0.item(), then[0])
    close((by_old**2 + by_new**2).item(), then[1] ** 2)
    with pytest.raises(BadValue, match="noisier"):
        raised_noise(by_x0, by_x0, then, now)


def test_self_npo_has_its_optimum_at_the_weak_sample():
    weak = random(0, 3, 4)
    assert self_npo_loss(weak, weak) == 0
    far = (weak + 5).requires_grad_()
    self_npo_loss(far, weak, 1.0).backward()
    close(far.grad, torch.full_like(weak, 1 / weak.numel()))  # linear beyond delta


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_nft_moves_towards_what_is_rewarded_by_two_over_beta(beta):
    """Samples of the old policy at one x, whose velocities have its own prediction as their mean; some rewarded more."""
    sigma, x = 0.4, random(0, 1, DIM)
    velocities = random(1, 6, DIM)
    x0, reward = x - sigma * velocities, torch.tensor([0.9, 0.1, 0.5, 1.0, 0.0, 0.7], dtype=torch.float64)
    old = velocities.mean(0, keepdim=True)
    student = old.clone().requires_grad_()
    for _ in range(300):
        rows = student.expand(6, DIM)
        loss = nft_loss(rows, old.expand(6, DIM), x0, x.expand(6, DIM), 1 - sigma, sigma, reward, beta, weighted=False)
        student = (student - 5 * torch.autograd.grad(loss, student)[0]).detach().requires_grad_()
    mean = reward.mean()
    rewarded = (reward[:, None] * velocities).mean(0) / mean
    close(student.detach()[0], old[0] + 2 / beta * mean * (rewarded - old[0]), atol=1e-6, rtol=0)


def test_nft_without_a_preference_leaves_the_policy_where_it_is():
    old, x0, x = random(0, 4, DIM), random(1, 4, DIM), random(2, 4, DIM)
    student = old.clone().requires_grad_()
    nft_loss(student, old, x0, x, 0.5, 0.5, torch.full((4,), 0.5, dtype=torch.float64)).backward()
    assert student.grad.abs().max() < 1e-12
    rewards = nft_reward(torch.tensor([1.0, 3.0, 7.0, 7.0]).double(), torch.tensor([0, 0, 5, 5]))
    close(rewards, torch.tensor([0.4, 0.6, 0.5, 0.5], dtype=torch.float64))
    assert nft_reward((torch.arange(100) == 0).double(), torch.zeros(100, dtype=int)).max() == 1
    assert [nft_decay(step) for step in (0, 100, 10_000)] == [0, 0.1, 0.5]


def test_the_self_perceptual_loss_is_0_for_a_perfect_prediction():
    x0, noise, now, then = random(0, 2, 3), random(1, 2, 3), (0.8, 0.6), (0.6, 0.8)
    x, v = now[0] * x0 + now[1] * noise, now[0] * noise - now[1] * x0
    frozen = torch.nn.Linear(3, 5).double()
    with pytest.raises(BadValue, match="frozen"):
        self_perceptual_loss(v, x, x0, noise, now, then, frozen)
    frozen.requires_grad_(False)
    assert self_perceptual_loss(v, x, x0, noise, now, then, frozen) < 1e-24
    student = (v + 0.1).requires_grad_()
    loss = self_perceptual_loss(student, x, x0, noise, now, then, frozen)
    loss.backward()
    # x0 falls by sigma d and epsilon grows by alpha d, so the input at t' moves by (sigma' alpha - alpha' sigma) d
    moved = 0.1 * (then[1] * now[0] - then[0] * now[1]) * torch.ones(2, 3, dtype=torch.float64)
    close(loss.detach(), (moved @ frozen.weight.T).square().mean())
    assert student.grad.abs().sum() > 0


def test_a_fused_embedding_adds_nothing_without_a_scale_or_a_difference():
    time, pooled, scale, difference = (random(i, 2, 8) for i in range(4))
    for parts in ((0 * scale, difference), (scale, 0 * difference)):
        close(fused_embedding(time, pooled, *parts), time + pooled)
    close(fused_embedding(time, pooled, scale, difference), time + pooled + scale * difference / 256)


@pytest.mark.parametrize("s", [0.0, 0.5, 3.0])
def test_one_student_of_fused_embeddings_is_the_teacher_at_every_scale(s):
    """A network that is its embedding, with that of a scale linear in it: fitted at s = 1 and 2, it is guided by 1 + s."""
    cond, null, time = random(0, 6, DIM), random(1, 6, DIM), torch.zeros(6, DIM, dtype=torch.float64)

    def fused(s):
        return fused_embedding(time, cond, torch.full_like(cond, 256 * s), cond - null)

    def guided(s):
        return null + OBJECTIVES["teefusion"].baked(s) * (cond - null)

    seen, wanted = (torch.cat([of(1.0), of(2.0)]) for of in (fused, guided))
    student = torch.linalg.lstsq(seen, wanted).solution
    assert distillation_loss(fused(s) @ student, guided(s)) < 1e-12
    assert OBJECTIVES["teefusion"].baked(0.0) == 1


def test_a_distilled_base_is_told_1_in_training():
    distilled, plain = SimpleNamespace(guidance_embeds=True), SimpleNamespace()
    assert distilled_base_advice(distilled, 1) is None is distilled_base_advice(plain, None)
    assert "told 3.5 in training: tell it 1" in distilled_base_advice(distilled, 3.5)
    assert "told nothing" in distilled_base_advice(distilled, None) and "no input" in distilled_base_advice(plain, 3.5)
