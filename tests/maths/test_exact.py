"""The closed-form denoisers that other tests take as the truth, against definitions and brute force."""

import pytest
import torch

from emag.maths.predictions import SPACES, convert, from_x0
from exact import Gaussian, Mixture, constant, counting, power_product

PATHS = {"vp": (0.8, 0.6), "flow": (0.35, 0.65), "edm": (1.0, 2.5)}
ON_PATHS = pytest.mark.parametrize(("alpha", "sigma"), PATHS.values(), ids=PATHS)
close = torch.testing.assert_close


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(seed, d=3):
    root = normal(seed, d, d)
    return Gaussian(normal(seed + 50, d), root @ root.mT + 0.3 * torch.eye(d, dtype=torch.float64))


def mixture():
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    return Mixture(weights, (gaussian(1), gaussian(2), Gaussian(normal(3, 3), torch.tensor(0.4, dtype=torch.float64))))


DATA = {"full": gaussian(0), "diagonal": Gaussian(normal(1, 3), normal(2, 3).square() + 0.1),
        "isotropic": Gaussian(normal(4, 3), torch.tensor(0.7, dtype=torch.float64)), "mixture": mixture()}
EACH = pytest.mark.parametrize("data", DATA.values(), ids=DATA)


@EACH
@ON_PATHS
def test_score_is_the_gradient_of_the_log_density(data, alpha, sigma):
    x = normal(9, 5, 3).requires_grad_()
    gradient, = torch.autograd.grad(data.marginal(alpha, sigma).log_prob(x).sum(), x)
    close(data.score(x, alpha, sigma), gradient, atol=1e-10, rtol=1e-10)


@EACH
def test_the_marginal_is_the_distribution_of_the_noised_samples(data):
    alpha, sigma = PATHS["flow"]
    generator = torch.Generator().manual_seed(0)
    x = alpha * data.sample(200_000, generator) + sigma * normal(8, 200_000, 3)
    at = data.marginal(alpha, sigma)
    parts = at.components if isinstance(at, Mixture) else (at,)
    weights = at.weights if isinstance(at, Mixture) else torch.ones(1, dtype=torch.float64)
    mean = sum(w * part.mean for w, part in zip(weights, parts))
    second = sum(w * (part.matrix + torch.outer(part.mean, part.mean)) for w, part in zip(weights, parts))
    close(x.mean(0), mean, atol=0.02, rtol=0)
    close(x.mT @ x / len(x), second, atol=0.06, rtol=0)


@EACH
@ON_PATHS
def test_the_denoiser_is_the_posterior_mean(data, alpha, sigma):
    """E[x0 | x] by importance sampling: clean samples weighted by how well they explain x."""
    clean, x = data.sample(200_000, torch.Generator().manual_seed(1)), normal(7, 2, 3) * sigma
    for row in x:
        shares = (-(row - alpha * clean).square().sum(1) / (2 * sigma**2)).softmax(0)
        close(data.predict(row[None], alpha, sigma, "x0")[0], shares @ clean, atol=0.04, rtol=0)


@EACH
@pytest.mark.parametrize(("path", "space"), [("vp", "epsilon"), ("vp", "v"), ("vp", "x0"), ("flow", "epsilon"),
                                             ("flow", "flow"), ("flow", "x0"), ("edm", "epsilon"), ("edm", "x0")])
def test_all_spaces_tell_the_same(data, path, space):
    alpha, sigma = PATHS[path]
    x = normal(6, 5, 3)
    score, told = data.score(x, alpha, sigma), data.predict(x, alpha, sigma, space)
    close(told, from_x0((x + sigma**2 * score) / alpha, x, alpha, sigma, space), atol=1e-10, rtol=1e-10)
    close(convert(told, x, alpha, sigma, space, "epsilon"), -sigma * score, atol=1e-10, rtol=1e-10)


@EACH
def test_both_ends_of_the_path(data):
    x = normal(5, 4, 3)
    parts = data.components if isinstance(data, Mixture) else (data,)
    weights = data.weights if isinstance(data, Mixture) else torch.ones(1, dtype=torch.float64)
    mean = sum(w * part.mean for w, part in zip(weights, parts))
    close(data.predict(x, 0.0, 1.0, "x0"), mean.expand(4, 3))
    close(data.predict(x, 0.0, 1.0, "flow"), x - mean)
    close(data.predict(x, 1.0, 0.0, "x0"), x)


@ON_PATHS
def test_a_mixture_of_one_or_of_equals_is_the_gaussian(alpha, sigma):
    one, x = gaussian(0), normal(4, 5, 3)
    for weights in ([1.0], [0.3, 0.7]):
        mixed = Mixture(torch.tensor(weights, dtype=torch.float64), (one,) * len(weights))
        close(mixed.score(x, alpha, sigma), one.score(x, alpha, sigma), atol=1e-12, rtol=1e-12)
        close(mixed.log_prob(x), one.log_prob(x), atol=1e-12, rtol=1e-12)
        for space in SPACES:
            close(mixed.predict(x, alpha, sigma, space), one.predict(x, alpha, sigma, space), atol=1e-12, rtol=1e-12)


def test_the_posterior_of_the_label_is_bayes_rule():
    data, x, (alpha, sigma) = mixture(), normal(3, 6, 3), PATHS["vp"]
    densities = torch.stack([part.marginal(alpha, sigma).log_prob(x).exp() for part in data.components], 1) * data.weights
    close(data.posterior(x, alpha, sigma), densities / densities.sum(1, keepdim=True), atol=1e-12, rtol=1e-12)


def test_a_mixture_far_from_all_its_components_stays_finite():
    data, x = mixture(), 1e3 * normal(2, 4, 3)
    assert data.log_prob(x).isfinite().all()
    assert data.predict(x, 1.0, 0.01, "x0").isfinite().all()


def test_covariances_may_be_given_in_short():
    x, d = normal(0, 5, 3), torch.float64
    for short, full in ((torch.tensor([0.5, 2.0, 3.0], dtype=d), torch.diag(torch.tensor([0.5, 2.0, 3.0], dtype=d))),
                        (torch.tensor(0.7, dtype=d), 0.7 * torch.eye(3, dtype=d))):
        mean = normal(1, 3)
        close(Gaussian(mean, short).predict(x, 0.8, 0.6, "v"), Gaussian(mean, full).predict(x, 0.8, 0.6, "v"))


@EACH
def test_images_are_flattened_and_dtypes_kept(data):
    wide = normal(1, 4, 3)
    image = wide.reshape(4, 1, 3, 1).float()
    for answer in (lambda x: data.predict(x, 0.8, 0.6, "epsilon"), lambda x: data.score(x, 0.8, 0.6)):
        assert answer(image).shape == image.shape and answer(image).dtype == torch.float32
        close(answer(image).flatten(1), answer(wide).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("w", [0.0, 0.4, 1.0, 1.3])
def test_the_power_product_is_what_its_name_says(w):
    a, b = Gaussian(gaussian(0).mean, 4 * gaussian(0).matrix), gaussian(1)
    product, x = power_product(a, b, w), normal(0, 6, 3)
    ratio = product.log_prob(x) - (1 - w) * a.log_prob(x) - w * b.log_prob(x)
    close(ratio, ratio[:1].expand(6), atol=1e-9, rtol=1e-9)


def test_the_power_product_at_its_ends_and_beyond():
    a, b = gaussian(0), gaussian(1)
    close(power_product(a, b, 0.0).mean, a.mean)
    close(power_product(a, b, 1.0).cov, b.matrix)
    flat, round_ = Gaussian(a.mean, torch.tensor([9.0, 9.0, 0.1]).double()), Gaussian(b.mean, torch.tensor(1.0).double())
    with pytest.raises(ValueError, match="finite mass"):
        power_product(flat, round_, 2.0)  # two directions could be normalised, the third could not


@ON_PATHS
@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 1.2])
def test_cfg_aims_at_the_power_product_of_the_marginals_and_not_of_the_data(alpha, sigma, w):
    a, b, x = Gaussian(gaussian(0).mean, 4 * gaussian(0).matrix), gaussian(1), normal(0, 5, 3)
    guided = (1 - w) * a.score(x, alpha, sigma) + w * b.score(x, alpha, sigma)
    target = power_product(a.marginal(alpha, sigma), b.marginal(alpha, sigma), w)
    close(guided, target.score(x, 1.0, 0.0), atol=1e-9, rtol=1e-9)
    naive = power_product(a, b, w).score(x, alpha, sigma)
    assert torch.allclose(guided, naive, atol=1e-6) == (w in (0, 1))


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 3.0])
def test_guided_flows_follow_the_combined_score(w):
    """arXiv 2311.13443: guided velocities of the linear path carry the score of p^(1-w) p(.|y)^w."""
    (alpha, sigma), free, labelled, x = PATHS["flow"], gaussian(0), gaussian(1), normal(1, 5, 3)
    velocity = [data.predict(x, alpha, sigma, "flow") for data in (free, labelled)]
    guided = (1 - w) * velocity[0] + w * velocity[1]
    score = (1 - w) * free.score(x, alpha, sigma) + w * labelled.score(x, alpha, sigma)
    close(guided, -(x + sigma * score) / (1 - sigma), atol=1e-10, rtol=1e-10)
    if w == 1:
        close(guided, velocity[1], atol=0, rtol=0)


def test_a_counted_network_answers_the_same_and_counts_rows():
    net, x = counting(lambda x, t, label=None: gaussian(0).predict(x, 1 - t, t, "flow")), normal(0, 5, 3)
    close(net(x, 0.3), gaussian(0).predict(x, 0.7, 0.3, "flow"), atol=0, rtol=0)
    net(x[:2], 0.5, label="cat")
    assert (net.calls, net.rows) == (2, 7)


def test_a_constant_network_is_deaf():
    c, x = normal(0, 3), normal(1, 5, 3)
    net = constant(c)
    assert torch.equal(net(x, 0.3, label=1), c.expand(5, 3)) and torch.equal(net(x), net(2 * x))
