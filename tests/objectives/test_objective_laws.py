"""Laws of all objectives: what gradients reach, precision, rows without a condition, what is refused."""

import pytest
import torch

from emag.errors import BadValue
from emag.maths.predictions import to_x0
from emag.objectives import (
    OBJECTIVES,
    cca_loss,
    distillation_loss,
    gft_loss,
    guidance_loss,
    guided_kl,
    guided_velocity,
    meanflow_loss,
    model_guidance_loss,
    nft_loss,
    noise_loss,
    npo_loss,
    reneg_loss,
    self_npo_loss,
    self_perceptual_loss,
)
from tables import DIM, random

close = torch.testing.assert_close


def rows(seed):
    return random(seed, 3, DIM).requires_grad_()


BETAS = torch.full((3,), 0.5, dtype=torch.float64)
CALLS = {
    "agd": lambda s, a, b, c: distillation_loss(s, a),
    "guidance-loss": lambda s, a, b, c: guidance_loss(s, a, b, 3.0),
    "model-guidance": lambda s, a, b, c: model_guidance_loss(s, a, b, c, 0.5),
    "meanflow-cfg": lambda s, a, b, c: meanflow_loss(s, guided_velocity(a, b, c, 0.3, 0.9), c, BETAS, BETAS),
    "gft": lambda s, a, b, c: gft_loss(s, a, b, BETAS),
    "cca": lambda s, a, b, c: cca_loss(s.sum(1), a.sum(1), s.sum(1), b.sum(1), torch.zeros(3, dtype=torch.bool)),
    "diversity": lambda s, a, b, c: guided_kl(s[:, None], a[:, None], b[:, None], 2.0),
    "teefusion": lambda s, a, b, c: distillation_loss(s, a),
    "reneg": lambda s, a, b, c: reneg_loss(s, a, b, 0.8, 0.6, 4.0, lambda x0: -x0.square().sum(1)),
    "noise-refine": lambda s, a, b, c: noise_loss(s, [(0.9, 0.1)], lambda x, _: a * x, b),
    "npo": lambda s, a, b, c: npo_loss(*(x.square().mean(1) for x in (s, a, s.flip(0), b))),
    "self-npo": lambda s, a, b, c: self_npo_loss(s, a),
    "nft": lambda s, a, b, c: nft_loss(s, a, b, c, 0.5, 0.5, 0.8 * torch.ones(3).double()),
    "self-perceptual": lambda s, a, b, c: self_perceptual_loss(s, a.detach(), b.detach(), c.detach(), (0.8, 0.6), (0.6, 0.8),
                                                               torch.tanh),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_reach_the_student_alone(name):
    student, *others = map(rows, range(4))
    loss = CALLS[name](student, *others)
    assert loss.ndim == 0 and loss.isfinite()
    own, *rest = torch.autograd.grad(loss, (student, *others), allow_unused=True)
    assert own.abs().sum() > 0 and rest == [None] * 3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_of_16_bit_predictions_are_made_in_fp32(name):
    loss = CALLS[name](*(random(seed, 3, DIM).to(torch.bfloat16) for seed in range(4)))
    assert loss.dtype in (torch.float32, torch.float64)


def test_shapes_masks_and_knobs_are_held():
    a = random(0, 3, DIM)
    for call, says in (
            (lambda: distillation_loss(a, a[:1]), "one shape"), (lambda: guidance_loss(a, a, a, -1.0), "at least 0"),
            (lambda: guidance_loss(a, a, a, 2.0, torch.ones(3)), "bool mask"),
            (lambda: guidance_loss(a, a, a, 2.0, torch.ones(2, dtype=torch.bool)), r"\[3\]"),
            (lambda: model_guidance_loss(a, a, a, a, 1.0), "no fixed point"),
            (lambda: model_guidance_loss(a, a, a, a, 2.0, convention="tabulated"), "no fixed point"),
            (lambda: guided_velocity(a, a, a, 0.3, 1.0), "below 1"), (lambda: gft_loss(a, a, a, 0 * BETAS), r"\(0, 1\]"),
            (lambda: reneg_loss(a, a, a, 1, 1, 1, torch.sum), "plays no part"),
            (lambda: nft_loss(a, a, a, a, 1, 1, 2 * BETAS + 1), r"in \[0, 1\]"),
    ):
        with pytest.raises(BadValue, match=says):
            call()


def test_the_null_in_a_dropped_row_says_nothing():
    """Rows whose condition was dropped: their target is the plain one, to the bit, whatever the null says."""
    data, student = random(0, 3, DIM), random(1, 3, DIM)
    dropped = torch.tensor([False, True, False])
    losses = [guidance_loss(student[1:2], data[1:2], random(seed, 1, DIM), 3.0, dropped[1:2]) for seed in (2, 3)]
    assert losses[0] == losses[1] == (student[1] - data[1]).square().mean()
    velocity = guided_velocity(data, random(2, 3, DIM), random(3, 3, DIM), 0.3, 0.9, dropped)
    assert torch.equal(velocity[1], data[1]) and not torch.isclose(velocity[0], data[0]).any()
    close(to_x0(velocity, data, 0.5, 0.5, "flow"), data - 0.5 * velocity)
