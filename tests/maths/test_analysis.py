"""Linear-CFG's three parts, against denoisers of Gaussian data and their eigenvalues."""

import pytest
import torch

from emag.errors import BadValue
from emag.maths.analysis import linear_denoiser, split
from exact import Gaussian

SIGMAS = pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
close = torch.testing.assert_close


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(seed, d=6):
    root = normal(seed, d, d)
    return normal(seed + 20, d), root @ root.mT + 0.05 * torch.eye(d, dtype=torch.float64)


X, COND, UNCOND = 3 * normal(99, 4, 6), moments(0), moments(1)


@SIGMAS
def test_the_linear_denoiser_is_the_posterior_mean_of_gaussian_data(sigma):
    close(linear_denoiser(X, *COND, sigma), Gaussian(*COND).predict(X, 1.0, sigma, "x0"), atol=1e-10, rtol=1e-10)


def test_the_denoiser_at_both_ends_of_the_noise():
    close(linear_denoiser(X, *COND, 1e-6), X, atol=1e-9, rtol=0)
    close(linear_denoiser(X, *COND, 1e6), COND[0].expand_as(X), atol=1e-9, rtol=0)
    flat = torch.zeros(6, 6, dtype=torch.float64)
    close(linear_denoiser(X, COND[0], flat, 0.5), COND[0].expand_as(X))


@SIGMAS
def test_the_parts_sum_to_the_guidance_direction(sigma):
    parts = split(X, COND, UNCOND, sigma)
    close(parts.total, linear_denoiser(X, *COND, sigma) - linear_denoiser(X, *UNCOND, sigma), atol=1e-10, rtol=1e-10)
    assert parts.mean_shift.shape == parts.positive.shape == X.shape


@SIGMAS
def test_the_two_signs_sum_to_the_contrast_and_are_what_they_say(sigma):
    parts, centred = split(X, COND, UNCOND, sigma), X - COND[0]
    gain = [linear_denoiser(torch.eye(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64), cov, sigma)
            for cov in (COND[1], UNCOND[1])]
    close(parts.contrast, centred @ (gain[0] - gain[1]), atol=1e-10, rtol=1e-10)
    assert ((parts.positive * centred).sum(1) > 0).all() and ((parts.negative * centred).sum(1) < 0).all()
    close((parts.positive * parts.negative).sum(1), torch.zeros(4, dtype=torch.float64), atol=1e-10, rtol=0)


@SIGMAS
def test_equal_covariances_leave_only_the_mean_shift(sigma):
    parts = split(X, COND, (UNCOND[0], COND[1]), sigma)
    close(parts.contrast, torch.zeros_like(X), atol=1e-10, rtol=0)
    close(parts.mean_shift, parts.mean_shift[:1].expand_as(X))
    assert parts.mean_shift.abs().max() > 1e-4


@SIGMAS
def test_equal_means_leave_only_the_contrast(sigma):
    parts = split(X, COND, (COND[0], UNCOND[1]), sigma)
    assert torch.equal(parts.mean_shift, torch.zeros_like(X)) and parts.contrast.abs().max() > 1e-4


def test_a_class_that_varies_more_has_no_negative_part_and_the_other_way_round():
    wide, narrow = (COND[0], 2 * COND[1]), COND
    close(split(X, wide, narrow, 1.0).negative, torch.zeros_like(X), atol=1e-12, rtol=0)
    close(split(X, narrow, wide, 1.0).positive, torch.zeros_like(X), atol=1e-12, rtol=0)


def test_axis_aligned_by_hand():
    mean, x = torch.zeros(2, dtype=torch.float64), torch.tensor([[3.0, 5.0]], dtype=torch.float64)
    cond, uncond = ((mean, torch.diag(torch.tensor(v, dtype=torch.float64))) for v in ([3.0, 1.0], [1.0, 3.0]))
    parts = split(x, cond, uncond, 1.0)
    close(parts.positive, torch.tensor([[0.75, 0.0]], dtype=torch.float64))
    close(parts.negative, torch.tensor([[0.0, -1.25]], dtype=torch.float64))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_sigma_out_of_range(sigma):
    with pytest.raises(BadValue, match="sigma"):
        split(X, COND, UNCOND, sigma)


def test_moments_that_do_not_fit():
    mean, cov = COND
    lopsided, broken = cov.clone(), cov.clone()
    lopsided[0, 1] += 1
    broken[0, 0] = float("nan")
    for bad in ((mean, cov[:3]), (mean, mean), (mean[None], cov), (mean, lopsided), (mean, broken)):
        with pytest.raises(BadValue, match="cov"):
            linear_denoiser(X, *bad, 1.0)
