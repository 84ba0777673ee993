"""CFG++ on Euler, 2M and 2S: the plain solver where the branches agree, and its formula where they do not."""

import math
from dataclasses import replace

import pytest

from emag.errors import BadValue, Unsupported
from emag.samplers import CFGpp2M, CFGpp2S, CFGppEuler, Euler, Path, sample, sampled_path
from paths import CURVED, EXACT, PAIRS, WIDE, Toy, close, every_pair, normal, path, points, start

SOLVERS = (CFGppEuler(0.6), CFGpp2M(0.6), CFGpp2M(0.6, "uncond"), CFGpp2S(0.6, eta=0.0))


def same(kind, space, steps=8):
    """A model whose two branches are one."""
    return Toy(path(kind, steps), space, cond=CURVED, uncond=CURVED)


@every_pair
def test_euler_is_cfg_plus_plus_as_a_scale(kind, space):
    """Euler under CFG at lambda k / (k - k') is alpha' D(g) + sigma' epsilon(u)."""
    levels, x = path(kind), points()
    for i in range(len(levels) - 1):
        k, after = levels.ratios[i], levels.ratios[i + 1]
        model = Toy(levels, space, scale=0.6 * k / (k - after), cond=CURVED, uncond=WIDE)
        plain = sample_one(model, x, i)
        close(sample_one(Toy(levels, space, cond=CURVED, uncond=WIDE), x, i, CFGppEuler(0.6)), plain, rtol=1e-9, atol=1e-9)


def sample_one(model, x, i, solver=None):
    return (solver or Euler()).step(x, model(x, i), i, model, {})


@every_pair
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_lambda_is_of_no_matter_where_the_branches_agree(kind, space, solver):
    model = same(kind, space)
    x = start(model)
    close(sample(model, x, solver=solver), sample(same(kind, space), x, solver=replace(solver, scale=3.0)), **EXACT)


@pytest.mark.parametrize("solver", [CFGpp2M(), CFGpp2S(eta=0.0)], ids=str)
def test_they_are_of_second_order_where_the_branches_agree(solver):
    """Halving the steps of a smooth flow quarters the error, where Euler halves it."""
    def levels(steps):
        return Path.edm(tuple(8.0 * (0.2 / 8) ** (n / steps) for n in range(steps + 1)))

    field = {"cond": normal(0.4, 0.3), "uncond": normal(0.4, 0.3)}
    x = 8.0 * points()
    exact = 0.4 + (x - 0.4) * math.sqrt((0.3 + 0.2**2) / (0.3 + 8.0**2))

    def error(steps, which):
        return (sample(Toy(levels(steps), **field), x, solver=which) - exact).abs().max().item()

    assert 3.4 < error(40, solver) / error(80, solver) < 4.8
    assert 1.7 < error(40, CFGppEuler()) / error(80, CFGppEuler()) < 2.4


@pytest.mark.parametrize("difference", ["guided", "uncond"])
def test_2m_is_its_formula(difference):
    levels, x = Path.edm((4.0, 2.0, 0.8, 0.0)), 4.0 * points()
    seen = []
    for i, after in enumerate(sampled_path(Toy(levels, cond=CURVED, uncond=WIDE), x, solver=CFGpp2M(0.7, difference))):
        k, lower = levels.ratios[i], levels.ratios[i + 1]
        cond, uncond = CURVED.predict(x, 1.0, k, "x0"), WIDE.predict(x, 1.0, k, "x0")
        guided, left = uncond + 0.7 * (cond - uncond), lower / k
        second = 0
        if seen and lower:
            r = math.log(levels.ratios[i - 1] / k) / math.log(k / lower)
            second = (1 - left) * ((guided if difference == "guided" else uncond) - seen[-1]) / (2 * r)
        close(after, guided - left * uncond + second + left * x, **EXACT)
        seen.append(uncond)
        x = after


def test_2s_is_its_formula_and_costs_two_pairs():
    levels, x = Path.edm((4.0, 1.0, 0.0)), 4.0 * points()
    model = Toy(levels, cond=CURVED, uncond=WIDE)
    first, last = sampled_path(model, x, solver=CFGpp2S(0.7, eta=0.0))
    half = 0.5 * x + 0.5 * WIDE.predict(x, 1.0, 4.0, "x0")
    cond, uncond = CURVED.predict(half, 1.0, 2.0, "x0"), WIDE.predict(half, 1.0, 2.0, "x0")
    close(first, uncond + 0.7 * (cond - uncond) - 0.25 * uncond + 0.25 * x, **EXACT)
    cond, uncond = CURVED.predict(first, 1.0, 1.0, "x0"), WIDE.predict(first, 1.0, 1.0, "x0")
    close(last, uncond + 0.7 * (cond - uncond), **EXACT)
    assert (model.calls, model.beside, model.levels) == (2, 1, [(1.0, 2.0)])


@pytest.mark.parametrize(("kind", "space"), [pair for pair in PAIRS if pair[0] != "edm"])
def test_paths_of_one_noise_level_are_one_solver(kind, space):
    """z = x / alpha follows the noise levels alone, whatever the path is made of; 2S finds its level between on each."""
    levels = path(kind)
    twin = Path.edm(levels.ratios)
    x = points()
    for solver in SOLVERS:
        theirs = sample(Toy(twin, cond=CURVED, uncond=WIDE), x / levels.alphas[0], solver=solver)
        close(sample(Toy(levels, space, cond=CURVED, uncond=WIDE), x, solver=solver), theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("solver", [CFGppEuler(0.6, 1.0), CFGppEuler(0.6, 0.4), CFGpp2S(0.6, 1.0)], ids=str)
def test_ancestral_noise_keeps_the_level(solver):
    """On data of one point the estimates are that point: what is left is noise of exactly the next level."""
    model = Toy(Path.edm((4.0, 2.0, 1.0)), cond=normal(0.5, 1e-24), uncond=normal(0.5, 1e-24))
    x = 0.5 + 4.0 * points(40_000)
    for after, level in zip(sampled_path(model, x, solver=solver), (2.0, 1.0), strict=True):
        assert (after - 0.5).std().item() == pytest.approx(level, rel=0.02)


def test_from_pure_noise_of_a_flow():
    levels, x = Path.flow((1.0, 0.6, 0.2, 0.0)), points()
    for solver in (*SOLVERS, CFGppEuler(0.6, 1.0), CFGpp2S(0.6, 1.0)):
        model = Toy(levels, "flow", cond=CURVED, uncond=WIDE)
        assert sample(model, x, solver=solver).isfinite().all()
    assert model.beside == 1  # neither from pure noise nor to sigma 0


def test_refusals():
    for solver in SOLVERS:
        with pytest.raises(Unsupported, match="unconditional prediction"):
            sample(Toy(path("edm"), cond=CURVED), points(), solver=solver)
    for make in (CFGppEuler, CFGpp2M, CFGpp2S):
        with pytest.raises(BadValue, match="at least 0"):
            make(-0.1)
    for make in (CFGppEuler, CFGpp2S):
        with pytest.raises(BadValue, match="eta must be 0 to 1"):
            make(eta=1.5)
    with pytest.raises(BadValue, match="one of guided, uncond"):
        CFGpp2M(difference="cond")
    with pytest.raises(Unsupported, match="flow, variance preserving and EDM"):
        Path((0.9, 0.8), (2.0, 0.5)).below(0, 0.5)
