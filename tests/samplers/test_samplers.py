"""Paths, steps, solvers and the loop, against closed forms and against diffusers."""

import math

import pytest
import torch

from emag.errors import BadValue, Unsupported
from emag.maths.predictions import SPACES, convert
from emag.samplers import (
    DCSolver,
    Euler,
    Path,
    ReverseSDE,
    UniPC,
    advance,
    guided_prediction,
    sample,
    sampled_path,
)
from emag.samplers.reverse_sde import average, reverse_kernel
from emag.samplers.solvers import to_epsilon
from paths import EXACT, PAIRS, PLAIN, WIDE, Toy, close, every_pair, geometric, normal, path, points

# paths


def test_paths():
    flow, vp, edm = Path.flow((1.0, 0.5, 0.0)), Path.variance_preserving((0.6, 0.0)), Path.edm((80.0, 1.0, 0.5))
    assert flow.at(1) == (0.5, 0.5) and flow.ratios == (math.inf, 1.0, 0.0) and len(flow) == 2
    close(vp.at(0), (0.8, 0.6))
    assert edm.ratios == (80.0, 1.0, 0.5) and len(edm) == 2
    assert flow.shrink(0, 1) == 0 and edm.shrink(0, 2) == 0.5 / 80 and edm.shrink(1, 2) == 0.5
    assert flow.fits("flow") and vp.fits("v") and edm.fits("x0") and edm.fits("epsilon")
    assert not (flow.fits("v") or vp.fits("flow") or edm.fits("flow") or edm.fits("v"))


@pytest.mark.parametrize("make", [
    lambda: Path.flow((0.5,)), lambda: Path.flow((0.2, 0.5)), lambda: Path.flow((0.5, 0.5)), lambda: Path.flow((1.2, 0.0)),
    lambda: Path.flow((0.5, float("nan"))), lambda: Path.edm((math.inf, 1.0)), lambda: Path.edm((1.0, -0.5)),
    lambda: Path.variance_preserving((14.0, 0.0)), lambda: Path((0.0, 0.0), (1.0, 0.5)), lambda: Path((1.0,), (0.5, 0.0)),
    lambda: Path((1.0, 0.0), (0.0, 0.0)), lambda: Path((0.0, 1.0), (0.0, 0.0)),
])
def test_paths_refuse(make):
    with pytest.raises(BadValue):
        make()


# one deterministic step


@every_pair
def test_advance_keeps_x0_and_noise(kind, space):
    x0, noise = points(4), points(4, 5)
    levels = path(kind)
    for i, j in ((0, 1), (2, 5), (5, 2), (3, 8), (1, 0)):
        (a, s), (b, t) = levels.at(i), levels.at(j)
        x = a * x0 + s * noise
        close(advance(x, convert(x0, x, a, s, "x0", space), levels, i, j, space), b * x0 + t * noise, **EXACT)


@every_pair
def test_advance_inverts_itself(kind, space):
    levels, x = path(kind), points(4)
    pred = convert(points(4, 5), x, *levels.at(2), "x0", space)
    down = advance(x, pred, levels, 2, 5, space)
    there = convert(convert(pred, x, *levels.at(2), space, "x0"), down, *levels.at(5), "x0", space)
    close(advance(down, there, levels, 5, 2, space), x, **EXACT)


def test_advance_is_euler_in_flow_space_bit_for_bit():
    levels, x, u = Path.flow((1.0, 0.3, 0.0)), points().float(), points(16, 4).float()
    for i, j in ((0, 1), (1, 2), (0, 2), (2, 0)):
        assert torch.equal(advance(x, u, levels, i, j, "flow"), x + (levels.sigmas[j] - levels.sigmas[i]) * u)


@every_pair
def test_noise_of_a_prediction(kind, space):
    x, noise, (alpha, sigma) = points(), points(16, 4), path(kind).at(3)
    close(to_epsilon(convert(noise, x, alpha, sigma, "epsilon", space), x, alpha, sigma, space), noise, **EXACT)


def test_ends_of_a_path():
    levels, x, pred = Path.flow((1.0, 0.4, 0.0)), points(), points(16, 4)
    assert torch.equal(to_epsilon(pred, x, 0.0, 1.0, "flow"), x)
    assert torch.equal(advance(x, pred, levels, 1, 2, "x0"), pred)
    with pytest.raises(BadValue):
        advance(x, pred, levels, 0, 1, "epsilon")
    with pytest.raises(BadValue):
        advance(x, pred, levels, 2, 1, "x0")


@pytest.mark.parametrize("solver", [Euler(), UniPC(1), UniPC(2), UniPC(3), ReverseSDE(), DCSolver()])
def test_solvers_land_on_a_single_point(solver):
    """Data that is one point: every solver is exact from any level, on any path and in any space."""
    for kind, space in PAIRS:
        end = sample(Toy(path(kind), space, cond=normal(0.7, 1e-24)), points(), solver=solver)
        close(end, torch.full_like(end, 0.7), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [Euler(), UniPC(2), ReverseSDE()])
def test_solvers_agree_in_every_space(solver):
    for kind in ("edm", "flow", "vp"):
        levels = path(kind)
        ends = [sample(Toy(levels, space, 2.0), points(), solver=solver) for space in SPACES if levels.fits(space)]
        for end in ends[1:]:
            close(end, ends[0], **EXACT)


def test_paths_of_one_noise_level_agree():
    """In z = x / alpha every path with the same k = sigma / alpha is one and the same."""
    k = geometric(9.0, 0.2, 6)
    flow, vp = tuple(v / (1 + v) for v in k), tuple(v / math.hypot(1, v) for v in k)
    paths = [Path.edm(k), Path.flow(flow), Path.variance_preserving(vp)]
    for solver in (Euler(), UniPC(2), ReverseSDE()):
        ends = [sample(Toy(p, "x0", 2.0), p.alphas[0] * 9.0 * points(), solver=solver) for p in paths]
        close(ends[1], ends[0], **EXACT)
        close(ends[2], ends[0], **EXACT)


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (UniPC(1), 2), (UniPC(2), 2)])
def test_order_of_convergence(solver, order):
    def error(steps):
        model = Toy(Path.edm(tuple(2.0 * 0.5 ** (n / steps) for n in range(steps + 1))), cond=PLAIN)
        x = points()
        true = 1.5 + (x - 1.5) * math.sqrt((1 + 1.0**2) / (1 + 2.0**2))
        return (sample(model, x, solver=solver) - true).abs().max().item()

    assert math.log2(error(32) / error(64)) == pytest.approx(order, abs=0.25)


# CFG++ is CFG with a scale per step


@every_pair
@pytest.mark.parametrize("strength", [0.0, 0.6, 1.0])
def test_cfgpp_is_cfg_at_its_equivalent_scale(kind, space, strength):
    levels, x = path(kind), points()
    model = Toy(levels, space)
    for i in range(len(levels)):
        (a, s), (b, t) = levels.at(i), levels.at(i + 1)
        p = model.branches(x, i)
        scale = strength / (1 - levels.shrink(i, i + 1))  # lambda k / (k - k')
        cfg = advance(x, guided_prediction(p, scale, "cfg"), levels, i, i + 1, space)
        x0 = convert(guided_prediction(p, strength, "cfg++"), x, a, s, space, "x0")
        close(cfg, b * x0 + t * to_epsilon(p["uncond"], x, a, s, space), **EXACT)
        if space == "flow":
            assert scale == pytest.approx(strength * s * (1 - t) / (s - t))
            close(cfg, (1 - t) * (x - s * guided_prediction(p, strength, "")) + t * (x + (1 - s) * p["uncond"]), **EXACT)


# the reverse SDE


@pytest.mark.parametrize("kind", ["edm", "flow", "vp"])
def test_reverse_sde_keeps_the_marginals(kind):
    """With many steps the variance at every level is that of x_t."""
    model = Toy(path(kind, 200), cond=PLAIN)
    first = PLAIN.marginal(*model.path.at(0))
    x = first.mean + first.matrix.sqrt()[0] * points(20000)
    for i, after in enumerate(sampled_path(model, x, solver=ReverseSDE()), 1):
        if i in (60, 150, 200):
            true = PLAIN.marginal(*model.path.at(i))
            assert after.mean().item() == pytest.approx(true.mean.item(), abs=0.03 * true.matrix.sqrt().item())
            assert after.var().item() == pytest.approx(true.matrix.item(), rel=0.05)


@pytest.mark.parametrize(("var", "levels"), [(1e-24, Path.flow((0.8, 0.5, 0.0))), (0.49, Path.flow((0.8, 0.5, 0.0))),
                                             (0.49, Path.edm((2.0, 0.7))), (2.0, Path.flow((1.0, 0.6, 0.0)))])
def test_reverse_sde_is_exact_for_data_of_its_spread(var, levels):
    """One step from x_t ~ its marginal ends in the marginal of the next level, of Gaussian data with that variance."""
    model = Toy(levels, "x0", cond=normal(0.7, var))
    move = reverse_kernel(levels, 0, spread=var)
    at, to = (model.fields["cond"].marginal(*levels.at(i)) for i in (0, 1))
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    ends = move.keep * x + move.pull * model(x, 0)
    slope = ends[1] - ends[0]
    close(ends[0] + slope * at.mean, to.mean, **EXACT)
    close(slope**2 * at.matrix[0] + move.noise**2, to.matrix[0], **EXACT)


def test_reverse_sde_ends_without_noise():
    move = reverse_kernel(Path.flow((0.3, 0.0)), 0)
    assert (move.keep, move.pull, move.noise) == (0.0, 1.0, 0.0)


def test_short_steps_are_the_sde():
    """Drift g^2 sum b s_b and noise g, whatever the exponents and the spread."""
    k, h = 0.8, 1e-6
    for total in (0.5, 1.0, 3.0):
        for spread in (0.1, 1.0, 4.0):
            move = reverse_kernel(Path.edm((k, k - h)), 0, total, spread)
            # m = z + k^2 sum b s_b / B
            assert move.keep + move.pull == pytest.approx(1, abs=1e-12)
            assert move.pull * k**2 / total / h == pytest.approx(2 * k, rel=1e-5)
            assert move.noise**2 / h == pytest.approx(2 * k, rel=1e-4)


def test_reverse_sde_from_pure_noise():
    model = Toy(Path.flow((1.0, 0.4, 0.0)), "flow", cond=normal(0.7, 1e-24))
    close(sample(model, points(), solver=ReverseSDE()), torch.full((16, 1), 0.7, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@every_pair
def test_averages_agree_in_every_space(kind, space):
    (alpha, sigma), x = path(kind).at(2), points()
    fields = {"a": PLAIN, "b": WIDE}
    for powers in ((("a", 1.0), ("b", 1.0)), (("a", 2.5),), (("a", -1.0), ("b", 2.0))):
        found = average({name: field.predict(x, alpha, sigma, space) for name, field in fields.items()}, powers)
        total = sum(b for _, b in powers)
        x0 = sum(b / total * fields[name].predict(x, alpha, sigma, "x0") for name, b in powers)
        close(convert(found, x, alpha, sigma, space, "x0"), x0, **EXACT)


def test_powers_of_cfg_are_cfg():
    for scale in (0.0, 1.0, 3.7, 7.3):
        powers = (("uncond", 1 - scale), ("cond", scale))
        model, twin = (Toy(Path.flow((1.0, 0.6, 0.2, 0.0)), "flow", scale) for _ in range(2))
        close(sample(model, points(), solver=ReverseSDE(powers)), sample(twin, points(), solver=ReverseSDE()), **EXACT)


def test_powers_refuse():
    for wrong in ({"powers": (("cond", 1.0), ("uncond", -1.0))}, {"powers": ()}, {"spread": -1.0}, {"spread": math.nan}):
        with pytest.raises(BadValue, match=f"reverse-sde {next(iter(wrong))}"):
            ReverseSDE(**wrong)


def test_missing_branches_are_named():
    model = Toy(path("edm"), cond=PLAIN)
    with pytest.raises(Unsupported, match="needs the predictions uncond, and the model evaluated cond"):
        sample(model, points(), solver=ReverseSDE((("uncond", -1.0), ("cond", 2.0))))
