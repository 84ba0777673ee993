"""Correctors against the distributions they claim to reach."""

import math

import pytest
import torch

from correcting import misses
from emag.errors import BadValue, Unsupported
from emag.samplers import (
    FKC,
    PCG,
    FKCAnneal,
    FKCProduct,
    Path,
    ReverseSDE,
    UniPC,
    effective_size,
    resample,
    sample,
)
from emag.samplers.particles import pairs, squares
from emag.samplers.reverse_sde import surplus
from emag.samplers.solvers import to_epsilon
from exact import power_product
from paths import EXACT, PAIRS, PLAIN, WIDE, Toy, close, every_pair, normal, path, points

COARSE = {"rtol": 0, "atol": 1e-3, "check_dtype": False}


# PCG


def test_pcg_reaches_the_powered_distribution_at_a_fixed_level():
    """Many short Langevin steps, each way of writing the prediction: mean and variance of p_t^(1 - w) p_t(.|c)^w."""
    for kind, space in (("edm", "x0"), ("flow", "flow"), ("vp", "epsilon")):
        levels = path(kind)
        at = levels.at(6)
        true = power_product(WIDE.marginal(*at), PLAIN.marginal(*at), 2.5)
        mean, var = true.mean.item(), true.matrix.item()
        x = PLAIN.marginal(*at).mean + PLAIN.marginal(*at).matrix.sqrt()[0] * points(4096)
        h = 0.02 * var / (at[1] ** 2 * (1 - levels.shrink(5, 6) ** 2))
        assert misses(x, mean, var) > 9 > 3 > misses(PCG(400, 2.5, h).after(x, 5, Toy(levels, space), {}), mean, var)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_pcg_step_is_cfg_on_the_reverse_sde(scale):
    """One step at 2 w - 1 after a conditional one drifts and spreads as CFG at w on the reverse SDE, to first order."""
    def gap(k):
        levels, x = Path.edm((2.0, k)), points(64)
        quiet, cfg = Toy(levels), Toy(levels, scale=scale)
        quiet.noise = cfg.noise = lambda name, like: torch.ones_like(like)
        pcg = sample(quiet, x, PCG(1, 2 * scale - 1))
        return (pcg - sample(cfg, x, solver=ReverseSDE())).abs().max().item()

    assert gap(1.99) < 0.01
    assert math.log2(gap(1.96) / gap(1.98)) > 1.4


def test_pcg_off_is_bit_identical():
    for kind, space in PAIRS:
        model = Toy(path(kind), space)
        plain = sample(model, points())
        assert torch.equal(sample(model, points(), PCG(0)), plain) and model.beside == 0
        assert not torch.equal(sample(model, points(), PCG(1)), plain)


def test_pcg_costs_its_steps_at_the_new_levels():
    model = Toy(path("flow"), "flow")
    sample(model, points(), PCG(3))
    assert model.calls == 8 and model.levels == [model.path.at(i) for i in range(1, 8) for _ in range(3)]


def test_pcg_draws_anew_for_every_step():
    names = []
    model = Toy(path("edm"))
    model.noise = lambda name, like: names.append(name) or torch.zeros_like(like)
    sample(model, points(), PCG(3))
    assert len(names) == len(set(names)) == 21


def test_pcg_on_unipc_is_not_undone():
    model, twin = (Toy(path("flow"), "flow") for _ in range(2))
    model.noise = lambda name, like: torch.ones_like(like)
    x = sample(model, points(), PCG(1, 1.0, 1e-6), solver=UniPC(2))
    assert (x - sample(twin, points(), solver=UniPC(2))).abs().max() > 1e-4


def test_pcg_needs_an_unconditional_prediction():
    model = Toy(path("edm"), cond=PLAIN)
    with pytest.raises(Unsupported, match="pcg at scale 5 needs the unconditional prediction"):
        sample(model, points(), PCG())
    sample(model, points(), PCG(scale=1.0))


@pytest.mark.parametrize("wrong", [
    {"steps": -1}, {"steps": 1.5}, {"scale": -0.1}, {"scale": math.inf}, {"scale": math.nan}, {"step_size": 0.0},
    {"step_size": math.nan},
])
def test_pcg_refuses(wrong):
    with pytest.raises(BadValue, match=f"pcg {next(iter(wrong))}"):
        PCG(**wrong)


# resampling


def test_resampling_counts():
    """Every particle goes on n w times, rounded up or down, in order."""
    log_weights = 2 * points(200)[:, 0] - 700
    expected = 200 * log_weights.softmax(0)
    for u in (0.0, 0.31, 0.999999, 1.0):
        rows = resample(log_weights, torch.tensor(u))
        counts = torch.bincount(rows, minlength=200)
        assert (counts - expected).abs().max() < 1 and counts.sum() == 200 and torch.equal(rows, rows.sort().values)


def test_resampling_is_unbiased():
    log_weights = points(7)[:, 0]
    grid = torch.linspace(0, 1, 20001, dtype=torch.float64)[:-1] + 0.5 / 20000
    rows = resample(log_weights.expand(20000, 7), grid)
    close(torch.bincount(rows.flatten(), minlength=7) / 20000, 7 * log_weights.softmax(0), **COARSE)


def test_equal_weights_keep_every_particle_once():
    for n in (1, 2, 5, 4096):
        for u in (0.0, 1e-9, 0.5, 1 - 1e-9, 1.0):
            assert torch.equal(resample(torch.full((n,), -123.4), torch.tensor(u)), torch.arange(n))


def test_resampling_ignores_a_constant_and_works_by_group():
    log_weights, u = points(12)[:, 0].view(3, 4), torch.rand(3, generator=torch.Generator().manual_seed(0))
    rows = resample(log_weights, u)
    assert torch.equal(rows, resample(log_weights + torch.tensor([[5.0], [-900.0], [1e4]]), u))
    assert all(torch.equal(rows[g], resample(log_weights[g], u[g])) for g in range(3))
    drawn = resample(log_weights, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, resample(log_weights, torch.Generator().manual_seed(1))) and drawn.shape == (3, 4)


def test_floor_keeps_particles_alive():
    log_weights = torch.tensor([0.0, -100.0, -100.0, -100.0])
    assert resample(log_weights, torch.tensor(0.5)).tolist() == [0, 0, 0, 0]
    assert set(resample(log_weights, torch.tensor(0.5), 0.9).tolist()) == {0, 1, 2, 3}


def test_effective_size():
    close(effective_size(torch.zeros(3, 8)), torch.full((3,), 8.0), check_dtype=False)
    assert effective_size(torch.tensor([0.0, -900.0, -900.0])).item() == pytest.approx(1)
    w = points(50)[:, 0].exp()
    close(effective_size(w.log()), w.sum() ** 2 / w.square().sum(), **EXACT)


# the weights


@pytest.mark.parametrize("powers", [(1.0,), (2.5,), (0.5,), (-1.5, 2.5), (1.0, 1.0), (0.4, 1.2, 2.0), (0.7, 0.1, 0.2)])
def test_squares_and_pairs(powers):
    noises = [points(5, seed, (2, 3)) for seed in range(len(powers))]
    close(squares(noises, powers), sum(b * e.square().sum((1, 2)) for b, e in zip(powers, noises)), **EXACT)
    whole = sum(b * e for b, e in zip(powers, noises)).square().sum((1, 2))
    close(pairs(noises, powers), sum(powers) * squares(noises, powers) - whole, **EXACT)
    assert torch.equal(pairs([noises[0]] * len(powers), powers), torch.zeros(5, dtype=torch.float64))


def test_surplus_of_rounding_is_none():
    assert surplus([0.7, 0.3 + 1e-15]) == 0 and surplus([0.5]) == -0.5 and surplus([1.0, 1.0]) == 1


@every_pair
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 7.3])
def test_cfg_weights(kind, space, scale):
    """da = w (w - 1) |D_epsilon|^2 |dk| / k, to first order in the step; 0 at both ends and for equal branches."""
    a, s = path(kind).at(4)
    levels = Path((a, a), (s, s * (1 - 1e-6)))  # a step so short that it stays on any path
    model, x, state = Toy(levels, space), points(), {}
    fkc = FKC(scale)
    model(fkc.before(x, 0, model, state), 0)
    fkc.after(x, 0, model, state)
    d = to_epsilon(PLAIN.predict(x, a, s, space), x, a, s, space) - to_epsilon(WIDE.predict(x, a, s, space), x, a, s, space)
    close(state["log_weights"] / 1e-6, scale * (scale - 1) * d.square().sum(1), rtol=1e-4, atol=1e-6)
    if scale in (0.0, 1.0):
        assert not state["log_weights"].any()


@pytest.mark.parametrize("make", [
    lambda: FKC(2.0), lambda: FKC(0.5), lambda: FKCProduct(("cond", "other")), lambda: FKCAnneal(3.0),
    lambda: FKCProduct(("cond", "uncond", "other")),
])
def test_weights_solve_the_equation_of_the_target(make):
    """pi = prod q_b^b (VE): d pi / d tau = -div(v pi) + (g^2 / 2) lap(pi) + pi (da / d tau - a constant), divided by pi."""
    corrector, fields = make(), {"uncond": (0.3, 2.0), "cond": (1.5, 0.7), "other": (-1.0, 3.0)}
    x = torch.linspace(-3, 4, 15, dtype=torch.float64)[:, None]
    k, g2 = 0.8, 1.6  # tau = -k, so g^2 = 2 k
    model = Toy(Path.edm((k, k * (1 - 1e-7))), **{name: normal(*field) for name, field in fields.items()})
    state = {"x": x, "groups": [torch.arange(len(x))]}
    model(x, 0)
    corrector.after(x, 0, model, state)
    rate = state["log_weights"][:, None] / (k * 1e-7)

    powers, data = dict(corrector.powers), model.fields
    var = {name: data[name].matrix.item() + k**2 for name in powers}
    centre = {name: x - data[name].mean for name in powers}
    score = sum(-b * centre[name] / var[name] for name, b in powers.items())
    curve = sum(-b / var[name] for name, b in powers.items())
    # log q_b = -c^2 / (2 v) - log(v) / 2 with dv/dk = 2 k, and d/dtau = -d/dk
    change = -sum(b * k * (centre[name].square() / var[name] ** 2 - 1 / var[name]) for name, b in powers.items())
    drift, spread = g2 * score, g2 * curve
    residual = change + spread + drift * score - g2 / 2 * (curve + score.square()) - rate
    close(residual, residual.mean().expand_as(residual), rtol=0, atol=5e-5)
