"""Objectives whose optimum is a guided network: in closed form on tables, float64."""

import pytest
import torch

from emag.maths.vectors import extrapolate
from emag.objectives import (
    OBJECTIVES,
    averaged_into,
    distillation_loss,
    gft_implied,
    gft_loss,
    gft_told,
    guidance_loss,
    guided_velocity,
    meanflow_loss,
    model_guidance_loss,
)
from tables import DIM, MEANS, NULL, Table, batch, random

close = torch.testing.assert_close


def guided(scale, means=MEANS):
    return NULL + scale * (means - NULL)


@pytest.mark.parametrize("scale", [1.0, 1.5, 4.0])
def test_a_distilled_student_is_the_guided_teacher(scale):
    _, condition, point, _ = batch()
    kept = torch.zeros(len(point), dtype=torch.bool)
    target = guided(scale)[condition, point]
    table = Table()
    table.fit(lambda: distillation_loss(table(condition, point, kept), target))
    close(table.cond.detach(), guided(OBJECTIVES["agd"].baked(scale)), atol=1e-6, rtol=0)
    assert distillation_loss(target, target, torch.rand(len(point))) == 0


@pytest.mark.parametrize("null", ["frozen", "self", "averaged"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_the_guidance_loss_bakes_its_scale_in(null, scale):
    data, condition, point, dropped = batch()
    table, average = Table(), Table(9)

    def loss():
        averaged_into({"null": average.null.data}, {"null": table.null.data}, 0.5)
        nulls = {"frozen": NULL, "self": table.null, "averaged": average.null}[null]
        return guidance_loss(table(condition, point, dropped), data, nulls[point], scale, dropped)

    table.fit(loss)
    close(table.null.detach(), NULL, atol=1e-6, rtol=0)  # rows of dropped conditions take the plain target
    close(table.cond.detach(), guided(OBJECTIVES["guidance-loss"].baked(scale)), atol=1e-6, rtol=0)


def test_at_scale_1_the_guidance_loss_is_the_plain_one_whatever_the_null():
    data, condition, point, dropped = batch()
    student = Table()(condition, point, dropped)
    assert guidance_loss(student, data, random(5, *data.shape), 1.0) == (student - data).square().mean(1).mean()


def test_scales_multiply_where_data_is_guided_already():
    """Two trainings with s, the second on what the first drew, are one with s^2."""
    _, condition, point, _ = batch()
    kept, means = torch.zeros(len(point), dtype=torch.bool), MEANS
    for _ in range(2):
        table, data = Table(), means[condition, point]
        table.fit(lambda table=table, data=data: guidance_loss(table(condition, point, kept), data, NULL[point], 3.0))
        means = table.cond.detach()
    close(means, guided(OBJECTIVES["guidance-loss"].baked(3.0, 3.0)), atol=1e-6, rtol=0)
    close(means, guided(9.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("scale", "convention", "baked"), [
    (0.0, "printed", 1.0), (0.5, "printed", 2.0), (0.75, "printed", 4.0), (1.0, "tabulated", 1.0), (1.5, "tabulated", 2.0)])
def test_model_guidance_meets_itself_at_its_fixed_point(scale, convention, baked):
    data, condition, point, dropped = batch()
    table = Table()

    def loss():
        return model_guidance_loss(table(condition, point, dropped), data, table.cond[condition, point], table.null[point],
                                   scale, dropped, convention)

    table.fit(loss, 800)
    close(table.cond.detach(), guided(baked), atol=1e-6, rtol=0)
    close(table.null.detach(), NULL, atol=1e-6, rtol=0)
    assert OBJECTIVES["model-guidance"].baked(scale, convention) == pytest.approx(baked)


@pytest.mark.parametrize(("omega", "kappa"), [(1.0, 0.0), (0.3, 0.9), (2.0, 0.0)])
def test_meanflow_is_guided_by_omega_over_the_rest_of_kappa(omega, kappa):
    data, condition, point, dropped = batch()
    table, now = Table(), torch.ones(len(point))

    def loss():
        velocity = guided_velocity(data, table.cond[condition, point], table.null[point], omega, kappa, dropped)
        return meanflow_loss(table(condition, point, dropped), velocity, random(3, *data.shape), now, now, power=0)

    table.fit(loss, 3000)
    close(table.cond.detach(), guided(OBJECTIVES["meanflow-cfg"].baked(omega, kappa)), atol=1e-6, rtol=0)
    close(table.null.detach(), NULL, atol=1e-6, rtol=0)


def test_meanflow_takes_the_way_from_t_to_r_off():
    """For u = x_t-independent v, the mean velocity is v - (t - r) du/dt; the weight has no gradient."""
    velocity, derivative, t, r = random(1, 5, 2), random(2, 5, 2), torch.rand(5), torch.rand(5)
    student = random(3, 5, 2).requires_grad_()
    away = (student - (velocity - (t - r)[:, None] * derivative)).square().mean(1)
    meanflow_loss(student, velocity, derivative, t, r).backward()
    weighted = (away / (away.detach() + 1e-3)).mean()
    close(student.grad, torch.autograd.grad(weighted, student)[0])


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.2])
def test_gft_is_the_guided_model_at_the_inverse_scale(beta):
    data, condition, point, dropped = batch()
    table, betas = Table(), torch.full((len(point),), beta, dtype=torch.float64)

    def loss():
        return gft_loss(table(condition, point, dropped), table.null[point], data, betas)

    table.fit(loss, 4000)
    close(table.cond.detach(), guided(OBJECTIVES["gft"].baked(beta)), atol=1e-6, rtol=0)
    close(table.null.detach(), NULL, atol=1e-6, rtol=0)
    assert gft_told(betas, dropped).tolist() == [beta] * (len(point) // 2) + [1] * (len(point) // 2)


@pytest.mark.parametrize("beta", [0.5, 0.25])
def test_gft_on_logits_is_the_guided_model_of_tokens(beta):
    """Cross-entropy of what GFT implies, for a table of tokens: it ends at u + (c - u) / beta of log-probabilities."""
    told = random(11, 2, 5).softmax(-1)  # p(token | condition)
    null = told.mean(0).log()
    logits = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=300, tolerance_grad=1e-12, tolerance_change=0,
                                  line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        implied = gft_implied(logits, null.expand(2, 5), torch.full((2,), beta, dtype=torch.float64))
        found = -(told * implied.log_softmax(-1)).sum(-1).mean()
        found.backward()
        return found

    optimizer.step(loss)
    wanted = (null + (told.log() - null) * OBJECTIVES["gft"].baked(beta)).log_softmax(-1)
    close(logits.detach().log_softmax(-1), wanted, atol=1e-6, rtol=0)


def test_the_anchored_guidance_of_flashaudio_is_cfg():
    """arXiv 2410.12266 as printed: v + (w - 1) dv/dw at w = 1; of CFG that derivative is c - u."""
    cond, null, one = random(1, 3, DIM), random(2, 3, DIM), torch.ones((), dtype=torch.float64)
    at_one, slope = torch.func.jvp(lambda w: null + w * (cond - null), (one,), (one,))
    close(at_one + 2.5 * slope, extrapolate(null, cond, 3.5))
