"""The maths of energy guidance: gradients per sample, their sizes, schedules, noise put back."""

import math
from itertools import pairwise

import pytest
import torch

from emag.errors import BadValue
from emag.maths.energies import (
    first_order_step,
    noised_back,
    reach,
    recording,
    shape_of,
    slope,
    smoothed_score,
    tamed,
    towards,
)

close = torch.testing.assert_close
HERE, NEXT = (0.6, 0.8), (0.8, 0.6)
NORMALISED = ("none", "norm", "rms", "relative", "score", "root")


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_slope_is_the_gradient_of_each_samples_own_number():
    x, weights = draw(3, 4, 2), draw(4, 2, seed=1)
    value, gradient = slope(x, lambda z: (weights * z.sin()).flatten(1).sum(1))
    close(gradient, weights * x.cos())
    close(value, (weights * x.sin()).flatten(1).sum(1))
    assert not value.requires_grad and not gradient.requires_grad


@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.inference_mode])
def test_a_slope_is_the_same_whatever_surrounds_it(surrounding):
    with surrounding():
        x = draw(2, 3) * 1.0
        found = slope(x, lambda z: z.square().sum(1))
    close(found[1], 2 * draw(2, 3))


def test_what_does_not_depend_has_no_slope():
    assert slope(draw(2, 3), lambda z: torch.ones(2)) is None
    assert slope(draw(2, 3), lambda z: torch.ones(2, requires_grad=True) * 2) is None
    assert slope(draw(2, 3), lambda z: z.detach().sum(1)) is None


def test_recording_is_over_afterwards():
    with torch.inference_mode():
        with recording():
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled()


@pytest.mark.parametrize("how", NORMALISED)
@pytest.mark.parametrize("clip", [0.0, 0.7])
def test_sizes_are_those_of_each_sample_alone(how, clip):
    gradient, score = draw(3, 2, 4) * torch.tensor([1e-3, 1.0, 1e3]).view(-1, 1, 1), draw(3, seed=2)
    together, x = tamed(gradient, score, how, clip, draw(3, 2, 4, seed=3)), draw(3, 2, 4, seed=3)
    for at in range(3):
        close(tamed(gradient[at:at + 1], score[at:at + 1], how, clip, x[at:at + 1]), together[at:at + 1])


def test_what_a_gradient_is_divided_by():
    gradient, score = draw(2, 3, 5), torch.tensor([-4.0, 9.0], dtype=torch.float64)
    x = draw(2, 3, 5, seed=3)
    norms = {how: tamed(gradient, score, how, 0.0, x).flatten(1).norm(dim=1) for how in NORMALISED}
    close(norms["norm"], torch.ones(2, dtype=torch.float64))
    close(norms["rms"], torch.full((2,), 15**0.5, dtype=torch.float64))
    close(norms["relative"], x.flatten(1).norm(dim=1))
    close(norms["none"] / norms["score"], score.abs())
    close(norms["none"] / norms["root"], score.abs().sqrt())
    for how in ("norm", "rms", "relative"):
        close(tamed(1000 * gradient, score, how, 0.0, x), tamed(gradient, score, how, 0.0, x))


@pytest.mark.parametrize("how", NORMALISED)
def test_a_gradient_of_zero_stays_zero(how):
    assert torch.equal(tamed(torch.zeros(2, 3), torch.zeros(2), how, 1.0, torch.ones(2, 3)), torch.zeros(2, 3))


def test_a_clip_of_one_is_rectifids_division():
    """g / max(1, |g|)."""
    gradient = draw(4, 3) * torch.tensor([[0.1], [1.0], [5.0], [50.0]])
    close(tamed(gradient, torch.ones(4), "none", 1.0, gradient), gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1))


def test_smoothing_is_log_mean_exp_and_one_draw_is_itself():
    scores = draw(5, 3)
    close(smoothed_score(scores), scores.exp().mean(0).log())
    assert torch.equal(smoothed_score(scores[:1]), scores[0])
    close(smoothed_score(scores[:1].expand(7, 3)), scores[0])


@pytest.mark.parametrize("kind", ["constant", "increase", "decrease"])
@pytest.mark.parametrize("path", ["vp", "flow"])
def test_a_schedule_has_mean_one_and_its_shape(kind, path):
    sigmas = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
    levels = tuple(((1 - s**2) ** 0.5 if path == "vp" else 1 - s, s) for s in sigmas)
    found = shape_of(kind, levels)
    assert len(found) == 5 and sum(found) / 5 == pytest.approx(1)
    # c_t is a_t, 1 - a_t or 1, times one number for all steps
    ratios = [(here[0] / after[0]) ** 2 for here, after in pairwise(levels)]
    wanted = {"constant": [1.0] * 5, "increase": ratios, "decrease": [1 - one for one in ratios]}[kind]
    assert [a * sum(wanted) for a in found] == pytest.approx([b * 5 for b in wanted])


def test_elucds_schedules_are_the_published_ones():
    levels = tuple(((1 - s**2) ** 0.5, s) for s in (0.99, 0.9, 0.6, 0.3, 0.0))
    # DDPM's variance of x' by abar: (1 - abar') / (1 - abar) (1 - abar / abar'), its running maximum, t / T = (N - i) / N
    bars, largest = [a**2 for a, _ in levels], 0.0
    for i, (found, (here, after)) in enumerate(zip(shape_of("elucd", levels), pairwise(bars), strict=True)):
        variance = (1 - after) / (1 - here) * (1 - here / after)
        largest = max(largest, variance)
        assert found * after**0.5 == pytest.approx(variance + 0.3 * largest * math.sin(math.pi * (4 - i) / 4))
    # EDM, N = steps + 1: (N - i) / N + 0.3 sin(pi i / (N - 1))
    assert shape_of("elucd-edm", levels) == pytest.approx([(5 - i) / 5 + 0.3 * math.sin(math.pi * i / 4) for i in range(4)])


def test_a_schedule_without_value_is_refused():
    with pytest.raises(BadValue, match="use 'constant'"):
        shape_of("decrease", ((1.0, 2.0), (1.0, 1.0)))


def test_a_step_there_and_back():
    x, x0 = draw(2, 3), draw(2, 3, seed=1)
    made = first_order_step(x, x0, HERE, NEXT)
    close(made, NEXT[0] * x0 + NEXT[1] * (x - HERE[0] * x0) / HERE[1])
    close(towards(made, x, HERE, NEXT), x0)
    close(first_order_step(x, x0 + 1, HERE, NEXT) - made, torch.full_like(x, reach(HERE, NEXT)))


@pytest.mark.parametrize(("here", "after"), [(HERE, NEXT), ((0.2, 0.8), (0.5, 0.5)), ((0.0, 1.0), (0.3, 0.7))])
def test_noise_put_back_gives_the_level_its_own_variance(here, after):
    """x' = alpha' x0 + sigma' epsilon becomes alpha x0 + noise of variance sigma^2, exactly: two independent parts."""
    one = torch.ones(1, dtype=torch.float64)
    assert noised_back(after[0] * one, 0 * one, here, after).item() == pytest.approx(here[0])
    kept, fresh = noised_back(after[1] * one, 0 * one, here, after), noised_back(0 * one, one, here, after)
    assert (kept**2 + fresh**2).item() == pytest.approx(here[1] ** 2)


def test_on_a_variance_preserving_path_it_is_the_published_noise():
    """x_t ~ N(sqrt(a_t) x', (1 - a_t) I)."""
    share = (HERE[0] / NEXT[0]) ** 2
    x, noise = draw(2, 3), draw(2, 3, seed=1)
    close(noised_back(x, noise, HERE, NEXT), share**0.5 * x + (1 - share) ** 0.5 * noise)
