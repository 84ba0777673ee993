"""Published methods as settings of one object: what each is in terms of the others, and their bias on a known posterior."""

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.methods.energy.presets import PRESETS
from emag.records import recipe
from emag.samplers import sample
from test_energy_functions import PATH, TARGET, X, after, guided, quadratic

close = torch.testing.assert_close


def run(*rules):
    return sample(guided(*rules), X)


def preset(name, **changes):
    return emag.Energy.preset(name, quadratic, **changes)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_moves_something_and_is_plain_data(name):
    rule = emag.Energy.preset(name, "colour:0.9:0.1:0.1")
    assert recipe.from_data(recipe.to_data([rule])) == (rule,)
    pictured = {"decode": lambda x0: x0[:, :, None, None].expand(-1, -1, 8, 8)}
    made = guided(emag.Energy.preset(name, lambda images: quadratic(images.mean((2, 3)))), **pictured)
    assert not torch.equal(sample(made, X), run())
    assert PRESETS[name].paper and PRESETS[name].equation and PRESETS[name].source
    assert torch.equal(run(preset(name, strength=0.0, mean=0.0)), run())


def test_tfg_holds_the_others_as_special_cases():
    """(rho, mu, smooth, N_recur): DPS (rho, 0, 0), LGD (rho, 0, 1), FreeDoM (rho, 0, 0, N), MPGD (0, mu, 0)."""
    plain = {"schedule": "constant", "smooth": 0.0, "inner": 1}
    close(run(preset("tfg-cifar10", strength=0.0, mean=0.3, **plain)), run(preset("mpgd", strength=0.3)))
    rho = {"strength": 0.3, "mean": 0.0, "where": "next", "schedule": "constant"}
    for name, more in (("lgd", {"smooth": 1.0, "draws": 4}), ("freedom", {"smooth": 0.0, "recur": 2})):
        close(run(preset("tfg-cifar10", **rho, **more)), run(preset(name, strength=0.3)))
    close(run(preset("tfg-cifar10", **rho, smooth=0.0)), run(preset("dps", strength=0.3, normalise="none")))


def test_dps_divides_by_the_length_of_the_residual():
    def residual(x0):
        return -(x0 - TARGET).square().sum(1)

    made = after(guided(emag.Energy.preset("dps", residual, strength=0.2)))
    bare = after(guided(emag.Energy.preset("dps", residual, strength=0.2, normalise="none")))
    length = (guided()(X, 1) - TARGET).norm(dim=1, keepdim=True)
    close((made - after(guided())) * length, bare - after(guided()))


def test_dreamguider_over_views_of_itself_is_mpgd():
    """A score that every view leaves alone: the mean of the image."""
    def mean(images):
        return -(images.mean((1, 2, 3)) - 0.7).square()

    def seen(rule):
        image = X.view(4, 3, 1, 1).expand(4, 3, 4, 4).contiguous()
        return emag.guided(lambda x, t, c: 0.5 * x, rule, path=PATH, prediction="x0")(image, 1)

    close(seen(emag.Energy.preset("dreamguider", mean)), seen(emag.Energy.preset("mpgd", mean)))


def test_refusals():
    with pytest.raises(BadValue, match="did you mean mpgd"):
        preset("mgpd")
    with pytest.raises(BadValue, match="augment is for images"):
        run(preset("dreamguider"))


# a Gaussian mixture, whose posterior is known


MEANS, WEIGHTS, SPREAD, NOISE, SEEN = torch.tensor([-2.0, 2.0]).double(), torch.tensor([0.5, 0.5]).double(), 0.3, 1.0, 0.5


def posterior():
    """Weights, means and the variance of p(x0 | y), y = x0 + noise: again a mixture."""
    logits = WEIGHTS.log() - (SEEN - MEANS) ** 2 / (2 * (SPREAD**2 + NOISE**2))
    narrow = 1 / (1 / SPREAD**2 + 1 / NOISE**2)
    return logits.softmax(0), narrow * (MEANS / SPREAD**2 + SEEN / NOISE**2), narrow


def mixture(x, sigma, condition):
    """The exact E[x0 | x] of the mixture."""
    alpha = (1 - sigma**2) ** 0.5
    spread = alpha**2 * SPREAD**2 + sigma**2
    parts = (WEIGHTS.log() - (x[..., None] - alpha * MEANS) ** 2 / (2 * spread)).softmax(-1)
    return (parts * (MEANS + alpha * SPREAD**2 / spread * (x[..., None] - alpha * MEANS))).sum(-1)


def likelihood(x0):
    return -((x0 - SEEN) ** 2).sum(1) / (2 * NOISE**2)


def drawn(*rules):
    levels = torch.linspace(0.9999, 0.02, 40).tolist()
    model = emag.guided(mixture, *rules, path=emag.Path.variance_preserving((*levels, 0.0)), prediction="x0")
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = sample(model, x).flatten()
    return (found > 0).double().mean().item(), found.mean().item(), found[found > 0].std().item()


@pytest.mark.parametrize("rules", [(), (emag.Energy(likelihood, 1e-9, "next", recur=2),)], ids=["plain", "repeated steps"])
def test_without_a_score_the_mixture_is_sampled(rules):
    """Steps that are taken back and made again keep the marginal of every level."""
    upper, mean, spread = drawn(*rules)
    assert upper == pytest.approx(0.5, abs=0.03) and mean == pytest.approx(0.0, abs=0.1)
    assert spread == pytest.approx(SPREAD, abs=0.04)


@pytest.mark.parametrize(("name", "changes"), [("dps", {"normalise": "none"}), ("classifier", {}), ("tfg-cifar10", {})])
def test_posterior_guidance_leans_the_right_way_and_is_biased(name, changes):
    """No setting samples the posterior: the likelihood of the mean x0 is not the mean likelihood over x0."""
    weights, means, narrow = posterior()
    upper, mean, spread = drawn(emag.Energy.preset(name, likelihood, **changes))
    exact = weights[1].item(), (weights * means).sum().item(), narrow**0.5
    print(f"{name} {upper:.2f} ({exact[0]:.2f}) {mean:+.2f} ({exact[1]:+.2f}) {spread:.2f} ({exact[2]:.2f})")
    assert mean > 0.1 and upper > 0.52
    assert abs(upper - exact[0]) > 0.02 or abs(spread - exact[2]) > 0.02
