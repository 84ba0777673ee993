"""Calls of served networks that are refused; attention whose keys are more than its queries; paths of noise levels."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import EDMDPMSolverMultistepScheduler, SCMScheduler

import emag
from emag.engine.seam import Seam
from emag.engine.trajectory import preconditioned, trigonometric
from emag.errors import Unsupported
from emag.testing.small_told import MORE, noise
from present import ABSENT


@pytest.mark.skipif("BriaFibo2Transformer2DModel" in ABSENT, reason="a class of newer diffusers")
def test_prompts_of_unlike_lengths_in_one_call():
    case = MORE["fibo-2"]
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    pipe = case.pipe()
    with pytest.raises(Unsupported, match="one prompt a call"), emag.guide(pipe, emag.EMAG(1.5, layers=(1,))):
        case.run(pipe, num_inference_steps=2, prompt_embeds_mask=mask)


@pytest.mark.parametrize("order", [("text", "image"), ("image", "text")])
def test_the_image_is_first_among_the_keys_that_a_rule_sees(order):
    q, image, text = noise(1, 1, 2, 4, 8), noise(2, 1, 2, 4, 8), noise(3, 1, 2, 3, 8)
    keys = torch.cat([{"image": image, "text": text}[kind] for kind in order], 2)
    mask = torch.rand(1, 1, 1, 7, generator=torch.Generator().manual_seed(0)) > 0.3
    seen = []

    def handle(call, live):
        seen.append(call)
        return live(call)

    with Seam(4, slice(0, 4), handle, keys=order):
        out = F.scaled_dot_product_attention(q, keys, 2 * keys, attn_mask=mask)
    assert torch.equal(out, F.scaled_dot_product_attention(q, keys, 2 * keys, attn_mask=mask))  # bit for bit
    assert torch.equal(seen[0].k, torch.cat([image, text], 2)) and torch.equal(seen[0].v, 2 * seen[0].k)
    own = F.scaled_dot_product_attention(q, seen[0].k, seen[0].v, attn_mask=seen[0].mask)
    torch.testing.assert_close(own, out)


def test_more_keys_are_another_call_where_none_are_declared():
    with Seam(4, slice(0, 4), lambda call, live: live(call)) as seam:
        F.scaled_dot_product_attention(noise(1, 1, 2, 4, 8), noise(2, 1, 2, 7, 8), noise(2, 1, 2, 7, 8))
    assert seam.fired == 0


def test_noise_levels_of_edm_keep_the_variance():
    steps = EDMDPMSolverMultistepScheduler(prediction_type="v_prediction", sigma_min=0.3, sigma_max=50.0, sigma_data=0.5)
    steps.set_timesteps(5)
    path = preconditioned(steps)
    for at in range(5):
        assert path.alphas[at]**2 + path.sigmas[at]**2 == pytest.approx(1)
        assert path.sigmas[at] / path.alphas[at] == pytest.approx(float(steps.sigmas[at]) / 0.5, rel=1e-5)
    with pytest.raises(Unsupported, match="v_prediction"):
        preconditioned(EDMDPMSolverMultistepScheduler())


def test_angles_are_a_straight_flow():
    steps = SCMScheduler()
    steps.set_timesteps(4, max_timesteps=1.5, intermediate_timesteps=None)
    path, late = trigonometric(steps), trigonometric(steps, 3)
    for angle, alpha, sigma in zip(steps.timesteps[:-1], path.alphas, path.sigmas, strict=True):
        assert alpha + sigma == pytest.approx(1) and sigma / alpha == pytest.approx(float(angle.tan()), rel=1e-3)
    assert late.sigmas == path.sigmas[1:] and late.schedule_length == 4
