"""Objectives whose optimum is a guided network: in closed form on tables, float64."""

import pytest
import torch

from emag.objectives import (
    OBJECTIVES,
    averaged_into,
    distillation_loss,
    gft_loss,
    gft_told,
    guidance_loss,
    guided_velocity,
    meanflow_loss,
    model_guidance_loss,
)
from tables import MEANS, NULL, Table, batch, random

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
