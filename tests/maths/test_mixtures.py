"""Probabilistic guidance of Gaussian mixtures, against a density product on a grid and its closed forms."""

import pytest
import torch

from emag.errors import BadValue
from emag.maths.mixtures import GaussianMixture, probabilistic_guidance

SHARES = pytest.mark.parametrize("share", [0.04, 0.45, 0.9])
close = torch.testing.assert_close


def mixture(seed, batch=3, count=4, channels=2, positions=(3, 5)):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(batch, count, channels, *positions, generator=generator, dtype=torch.float64)
    weights = torch.randn(batch, count, 1, *positions, generator=generator, dtype=torch.float64)
    variance = torch.rand(batch, *[1] * (2 + len(positions)), generator=generator, dtype=torch.float64) + 0.1
    return GaussianMixture(means, weights, variance)


def over(values):
    """Mean per sample."""
    return values.mean(tuple(range(1, values.ndim)), keepdim=True)


def step(guided, cond):
    return (guided.mean() - cond.mean()).flatten(1)


def density(gm, grid):
    """p(x) of each sample of a mixture over one number, [batch, points]."""
    centre, share = gm.means.flatten(1)[..., None], gm.weights.flatten(1)[..., None]
    spread = gm.variance.reshape(-1, 1, 1)
    bells = torch.exp(-(grid - centre).square() / (2 * spread)) / (2 * torch.pi * spread).sqrt()
    return (share * bells).sum(1)


def test_scale_1_is_the_conditional_mixture_and_the_limit_of_small_scales():
    cond, uncond = mixture(0), mixture(1)
    assert probabilistic_guidance(cond, uncond, 1.0) is cond
    near = probabilistic_guidance(cond, uncond, 1 + 1e-9)
    close(near.means, cond.means, atol=1e-7, rtol=0)
    close(near.weights, cond.weights, atol=1e-7, rtol=0)
    close(near.variance, cond.variance.expand_as(near.variance), atol=1e-7, rtol=0)


@SHARES
@pytest.mark.parametrize("orthogonal", [0.0, 0.4, 1.0])
def test_one_component_gives_the_target_gaussian_and_the_energy_is_kept(share, orthogonal):
    cond, uncond = mixture(0, count=1), mixture(1, count=2)
    guided = probabilistic_guidance(cond, uncond, 1 + share, orthogonal)
    variance = cond.variance.flatten()
    close(guided.variance.flatten(), (1 - share**2) * variance)
    close(step(guided, cond).square().mean(1) + guided.variance.flatten(), variance)


@SHARES
def test_one_component_moves_along_the_difference_of_the_means(share):
    cond, uncond = mixture(0, count=1), mixture(1)
    mu, away = cond.mean(), cond.mean() - uncond.mean()
    length = share * (cond.total_variance() / over(away.square())).sqrt()
    guided = probabilistic_guidance(cond, uncond, 1 + share, orthogonal=0.0)
    close(guided.means[:, 0], mu + length * away)


@SHARES
def test_the_step_is_orthogonal_to_the_conditional_mean(share):
    cond, uncond = mixture(0, count=1), mixture(1)
    dot = [(step(probabilistic_guidance(cond, uncond, 1 + share, orthogonal), cond) * cond.mean().flatten(1)).sum(1)
           for orthogonal in (1.0, 0.0)]
    close(dot[0], torch.zeros_like(dot[0]), atol=1e-12, rtol=0)
    assert dot[1].abs().min() > 1e-3


@SHARES
def test_the_mixture_is_the_product_of_densities_on_a_grid(share):
    """One channel, one position: every term written out on a line."""
    cond, uncond = (mixture(seed, batch=4, channels=1, positions=(1,)) for seed in (0, 1))
    grid = torch.linspace(-40, 40, 16001, dtype=torch.float64)
    held = density(cond, grid)
    mu = torch.trapezoid(held * grid, grid)
    total = torch.trapezoid(held * grid.square(), grid) - mu.square()
    moved = mu + (mu - torch.trapezoid(density(uncond, grid) * grid, grid)).sign() * share * total.sqrt()
    narrowed = (1 - share**2) * total
    ratio = (grid - mu[:, None]).square() / (2 * total[:, None]) - (grid - moved[:, None]).square() / (2 * narrowed[:, None])
    product = (held.log() + ratio - ratio.amax(1, keepdim=True)).exp()
    product = product / torch.trapezoid(product, grid)[:, None]
    guided = probabilistic_guidance(cond, uncond, 1 + share, orthogonal=0.0)
    close(density(guided, grid), product, atol=1e-8, rtol=1e-8)
    assert (density(guided, grid) - held).abs().max() > 1e-2


@SHARES
def test_the_log_density_changes_by_the_quadratic_of_the_ratio_at_every_position(share):
    """Many channels and positions: at each position log q' - log q is the ratio of the two Gaussians, up to a constant."""
    cond, uncond = mixture(2), mixture(3)
    guided = probabilistic_guidance(cond, uncond, 1 + share)
    total = cond.total_variance()
    mu, away = cond.mean(), cond.mean() - uncond.mean()
    away = away - over(away * mu) / over(mu.square()) * mu
    away = away * share * (total / over(away.square())).sqrt()
    points = torch.randn(7, 3, 2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def log_density(gm, x):
        far = (x[:, None] - gm.means).square().sum(2, keepdim=True)
        return (gm.log_weights.log_softmax(1) - far / (2 * gm.variance)).logsumexp(1)

    gained = torch.stack([log_density(guided, x) - log_density(cond, x) for x in points])
    ratio = torch.stack([(x - mu).square().sum(1, keepdim=True) / (2 * total)
                         - (x - mu - away).square().sum(1, keepdim=True) / (2 * (1 - share**2) * total)
                         for x in points])
    close(gained - gained[:1], ratio - ratio[:1], atol=1e-9, rtol=1e-9)


def test_moments_are_those_of_samples():
    gm = mixture(4, batch=1, positions=())
    pick = torch.multinomial(gm.weights.flatten(), 400_000, replacement=True, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    samples = gm.means[0, pick] + gm.variance.flatten().sqrt() * noise
    close(gm.mean()[0], samples.mean(0), atol=0.01, rtol=0)
    close(gm.total_variance().flatten(), samples.var(0).mean()[None], atol=0.02, rtol=0)


def test_a_sample_does_not_depend_on_its_batch_mates_nor_on_weight_constants():
    cond, uncond = mixture(0), mixture(1)
    both = probabilistic_guidance(cond, uncond, 1.4)
    alone = probabilistic_guidance(*[GaussianMixture(g.means[1:2], g.log_weights[1:2] + 7, g.variance[1:2])
                                     for g in (cond, uncond)], 1.4)
    for name in ("means", "log_weights", "variance"):
        close(getattr(alone, name), getattr(both, name)[1:2])


def test_branches_that_agree_only_narrow_the_mixture():
    cond = mixture(0, count=1)
    for uncond in (cond, GaussianMixture(cond.means * 0.3, cond.log_weights, cond.variance)):
        guided = probabilistic_guidance(cond, uncond, 1.5)
        close(guided.means, cond.means, atol=1e-9, rtol=0)
        close(guided.variance, 0.75 * cond.variance)


@pytest.mark.parametrize("scale", [0.45, 2.0, float("nan"), float("inf")])
def test_scales_out_of_range(scale):
    with pytest.raises(BadValue, match="scale - 1"):
        probabilistic_guidance(mixture(0), mixture(1), scale)


@pytest.mark.parametrize(("name", "value"), [("orthogonal", 1.1), ("orthogonal", -0.1), ("orthogonal", float("nan")),
                                             ("floor", 0.0), ("floor", float("nan")), ("floor", float("inf"))])
def test_other_values_out_of_range(name, value):
    with pytest.raises(BadValue, match=name):
        probabilistic_guidance(mixture(0), mixture(1), 1.2, **{name: value})


def test_shapes_that_do_not_fit():
    gm = mixture(0)
    for change in ({"means": gm.means[0, 0]}, {"log_weights": gm.log_weights[:, :2]}, {"variance": gm.variance[:2]},
                   {"variance": gm.variance.flatten()}, {"variance": torch.ones(1, 2, 1, 1, 1)}):
        with pytest.raises(BadValue, match="must"):
            GaussianMixture(**{"means": gm.means, "log_weights": gm.log_weights, "variance": gm.variance, **change})
    with pytest.raises(BadValue, match="one shape"):
        probabilistic_guidance(gm, mixture(1, batch=1), 1.2)
