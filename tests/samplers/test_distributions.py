"""Correctors reach the distributions that they are for."""

import pytest
import torch

from correcting import GROUPS, PARTICLES, misses, run
from emag.samplers import (
    FKC,
    FKCAnneal,
    FKCProduct,
    Path,
    ReverseSDE,
    effective_size,
    sample,
)
from exact import Mixture, power_product
from paths import PLAIN, WIDE, Toy, geometric, normal, points, start

pytestmark = pytest.mark.sampled(2)


def even(kind, steps):
    """A path of so many steps, and the space of its predictions; a flow's from pure noise."""
    if kind == "edm":
        return Path.edm(geometric(20.0, 0.05, steps)), "x0"
    return Path.flow(tuple(1 - i / steps for i in range(steps + 1))), "flow"


# the distributions


@pytest.mark.slow
def test_fkc_reaches_the_power_product_and_cfg_does_not():
    true = power_product(WIDE, PLAIN, 2.0)
    mean, var = true.mean.item(), true.matrix.item()
    assert misses(run(FKC(2.0, particles=PARTICLES)), mean, var) < 3
    for solver in (None, ReverseSDE()):
        assert misses(run(solver, 2.0), mean, var) > 9


@pytest.mark.slow
def test_fkc_reaches_the_mass_of_each_mode_and_cfg_does_not():
    """Modes equally likely with and without the label, but narrower with it: the powered density prefers one of them."""
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    fields = {"cond": Mixture(half, (normal(-1.5, 0.3), normal(1.5, 0.3))),
              "uncond": Mixture(half, (normal(-1.5, 0.4), normal(1.5, 1.0)))}
    grid = torch.linspace(-8, 8, 8001, dtype=torch.float64)[:, None]
    density = (3 * fields["cond"].log_prob(grid) - 2 * fields["uncond"].log_prob(grid)).softmax(0)
    right, mean = density[grid[:, 0] > 0].sum().item(), (density @ grid).item()
    x = run(FKC(3.0, particles=PARTICLES), steps=240, **fields)
    assert misses(x, mean, (density @ (grid - mean).square()).item()) < 3
    assert misses((x > 0).double(), right, right * (1 - right)) < 3
    for solver in (None, ReverseSDE()):
        assert misses((run(solver, 3.0, 120, **fields) > 0).double(), right, right * (1 - right)) > 9


@pytest.mark.slow
def test_product_reaches_the_product():
    fields, product = {"a": normal(-1.0, 1.0), "b": normal(2.0, 2.0)}, FKCProduct(("a", "b"), particles=PARTICLES)
    assert misses(run(product, **fields), 0.0, 2 / 3) < 3
    assert misses(run(product.solver, **fields), 0.0, 2 / 3) > 9


LEFT = Mixture(torch.tensor([0.4, 0.6], dtype=torch.float64), (normal(-1.0, 0.5), normal(1.0, 0.7)))
RIGHT = Mixture(torch.tensor([0.5, 0.5], dtype=torch.float64), (normal(-0.6, 1.0), normal(1.0, 0.8)))
MIXTURES = {"product": (FKCProduct(branches=("a", "b"), particles=PARTICLES), {"a": LEFT, "b": RIGHT}),
            "sharp": (FKCAnneal(2.0, particles=PARTICLES), {"cond": LEFT}),
            "flat": (FKCAnneal(0.5, particles=PARTICLES), {"cond": LEFT})}


def moments(corrector, fields):
    """Mean and variance of prod q_b^b, summed on a grid."""
    grid = torch.linspace(-9, 9, 9001, dtype=torch.float64)[:, None]
    density = sum(b * fields[name].log_prob(grid) for name, b in corrector.powers).softmax(0)
    mean = (density @ grid).item()
    return mean, (density @ (grid - mean).square()).item()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["edm", "flow"])
@pytest.mark.parametrize("name", MIXTURES)
def test_products_and_powers_of_mixtures_are_unbiased(name, kind, seed):
    """Mean and variance in closed form, within the error of many particles; from pure noise on a flow too."""
    corrector, fields = MIXTURES[name]
    levels, space = even(kind, 150)
    model, noise = Toy(levels, space, seed=seed, **fields), points(GROUPS * PARTICLES, 100 + seed)
    assert misses(sample(model, levels.sigmas[0] * noise, corrector, solver=corrector.solver), *moments(*MIXTURES[name])) < 4


@pytest.mark.parametrize("name", MIXTURES)
def test_without_weights_products_and_powers_of_mixtures_are_biased(name):
    corrector, fields = MIXTURES[name]
    levels, space = even("flow", 150)
    x = sample(Toy(levels, space, **fields), points(GROUPS * PARTICLES), solver=corrector.solver)
    assert misses(x, *moments(corrector, fields)) > 9


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.5, 2.0])
def test_annealing_reaches_the_power(power):
    anneal = FKCAnneal(power, particles=PARTICLES)
    assert misses(run(anneal), 1.5, 1 / power) < 3
    assert misses(run(anneal.solver), 1.5, 1 / power) > 9


@pytest.mark.parametrize("kind", ["edm", "flow"])
@pytest.mark.parametrize(("corrector", "fields", "var"), [
    (FKC(5.0), {"cond": (0.0, 1.0), "uncond": (0.0, 4.0)}, 0.25),
    (FKC(2.0), {"cond": (0.0, 0.4), "uncond": (0.0, 1.0)}, 0.25),
    (FKCAnneal(4.0), {"cond": (0.0, 1.0)}, 0.25), (FKCAnneal(0.5), {"cond": (0.0, 1.0)}, 2.0),
    (FKCProduct(branches=("a", "b")), {"a": (0.0, 1.0), "b": (0.0, 2.0)}, 2 / 3),
], ids=["cfg", "narrow", "sharp", "flat", "product"])
def test_sixty_steps_are_enough(kind, corrector, fields, var):
    """The noise of a step is what its weights assume: the target's variance to 12 % in 60 steps, from pure noise too."""
    levels, space = even(kind, 60)
    model = Toy(levels, space, **{name: normal(*field) for name, field in fields.items()})
    x = sample(model, start(model, 20000), corrector, solver=corrector.solver)
    assert x.var().item() == pytest.approx(var, rel=0.12)


def test_from_pure_noise_all_particles_weigh_the_same():
    for corrector in (FKC(3.0), FKCAnneal(2.0), FKCProduct(branches=("cond", "uncond"))):
        model, state = Toy(Path.flow((1.0, 0.5, 0.2, 0.0)), "flow"), {}
        x = corrector.before(points(), 0, model, state)
        model(x, 0)
        corrector.after(x, 0, model, state)
        assert not state["log_weights"].any()


def test_weights_without_resampling_count_as_much():
    """threshold 0: the weighted mean of the particles is that of the target."""
    model, states, fkc = Toy(Path.edm(geometric(20.0, 0.05, 200))), [], FKC(1.5, threshold=0.0)
    x = sample(model, start(model, GROUPS * PARTICLES), fkc, solver=fkc.solver, states=states)
    weights, true = states[0]["log_weights"].softmax(0), power_product(WIDE, PLAIN, 1.5)
    assert (weights @ x).item() == pytest.approx(true.mean.item(), abs=0.04)
    assert (weights @ (x - true.mean).square()).item() == pytest.approx(true.matrix.item(), abs=0.06)
    sizes = torch.stack(states[0]["ess"])[:, 0]
    assert sizes[-1] < 0.9 * len(x) and sizes[-1].item() == pytest.approx(effective_size(states[0]["log_weights"]).item())
