"""Paths, steps, solvers and the loop, against closed forms and against diffusers."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from emag.errors import BadValue, Unsupported
from emag.maths.predictions import SPACES, convert
from emag.maths.streams import Streams, digest
from emag.samplers import (
    CORRECTORS,
    SOLVERS,
    DCSolver,
    Euler,
    Path,
    RectifiedCFGpp,
    ReverseSDE,
    UniPC,
    advance,
    guided_prediction,
    sample,
    sampled_path,
    search_ratios,
)
from emag.samplers.dc_solver import golden_section, lagrange
from emag.samplers.reverse_sde import average, reverse_kernel
from emag.samplers.solvers import to_epsilon
from exact import Gaussian, Mixture, power_product

close = torch.testing.assert_close
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def normal(mean, var):
    return Gaussian(torch.tensor([float(mean)], dtype=torch.float64), torch.tensor(float(var), dtype=torch.float64))


PLAIN, WIDE = normal(1.5, 1.0), normal(0.0, 4.0)
CURVED = Mixture(torch.tensor([0.4, 0.6], dtype=torch.float64), (normal(-1.0, 0.2), normal(2.0, 0.5)))


class Toy:
    """An exact model. fields: data by branch; scale: CFG scale of its own prediction; it counts what it evaluates."""

    def __init__(self, path, space="x0", scale=1.0, seed=0, **fields):
        self.path, self.space, self.scale, self.fields = path, space, scale, fields or {"cond": PLAIN, "uncond": WIDE}
        self.latest, self.calls, self.beside, self.levels = {}, 0, 0, []
        self.generator = torch.Generator().manual_seed(seed)

    def predict(self, x, alpha, sigma):
        return {name: field.predict(x, alpha, sigma, self.space) for name, field in self.fields.items()}

    def branches_at(self, x, alpha, sigma):
        self.beside += 1
        self.levels.append((alpha, sigma))
        return self.predict(x, alpha, sigma)

    def branches(self, x, i):
        return self.branches_at(x, *self.path.at(i))

    def __call__(self, x, i):
        self.calls += 1
        self.latest = self.predict(x, *self.path.at(i))
        return guided_prediction(self.latest, self.scale, "toy") if "cond" in self.latest else x

    def noise(self, name, like):
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)


class Steady:
    """A field that predicts `value` in every space, at every x and level."""

    def __init__(self, value):
        self.value = value

    def predict(self, x, alpha, sigma, space):
        return torch.full_like(x, self.value)


def geometric(top, bottom, steps):
    """Noise levels from top to bottom in equal ratios, then 0."""
    return (*(top * (bottom / top) ** (n / (steps - 1)) for n in range(steps)), 0.0)


def path(kind, steps=8):
    if kind == "edm":
        return Path.edm(geometric(20.0, 0.1, steps))
    sigmas = [0.98 * (1 - n / steps) for n in range(steps + 1)]
    return (Path.flow if kind == "flow" else Path.variance_preserving)(tuple(sigmas))


PAIRS = [(kind, space) for kind in ("edm", "flow", "vp") for space in SPACES if path(kind).fits(space)]
every_pair = pytest.mark.parametrize(("kind", "space"), PAIRS)


def points(n=16, seed=3, shape=(1,)):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(model, n=16, seed=3):
    """x of x0-free noise at the first level."""
    return model.path.sigmas[0] * points(n, seed)


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


# UniPC


def scheduler(levels, order, kind):
    """diffusers' scheduler in float64, on exactly these levels."""
    flow = kind == "flow"
    made = UniPCMultistepScheduler(solver_order=order, prediction_type="flow_prediction" if flow else "epsilon",
                                   use_flow_sigmas=flow, final_sigmas_type="zero")
    made.set_timesteps(len(levels))
    made.sigmas = torch.tensor(levels.sigmas if flow else levels.ratios, dtype=torch.float64)
    return made


@pytest.mark.parametrize("kind", ["flow", "vp"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_unipc_is_that_of_diffusers(kind, order, steps):
    levels, space = path(kind, steps), "flow" if kind == "flow" else "epsilon"
    model, theirs = Toy(levels, space, cond=CURVED), scheduler(levels, order, kind)
    x = y = points()
    state = {}
    for i, t in enumerate(theirs.timesteps):
        x = UniPC(order).step(x, model(x, i), i, model, state)
        y = theirs.step(model(y, i), t, y).prev_sample
        close(x, y, rtol=1e-9, atol=1e-9)


def test_unipc_from_pure_noise_is_that_of_diffusers():
    """diffusers moves sigma 1 to 1 - 1e-6."""
    levels = Path.flow((1.0, 0.8, 0.55, 0.3, 0.1, 0.0))
    model, x = Toy(levels, "flow", cond=CURVED), points()
    theirs = scheduler(Path.flow((1 - 1e-6, *levels.sigmas[1:])), 2, "flow")
    y = x
    for i, t in enumerate(theirs.timesteps):
        y = theirs.step(model(y, i), t, y).prev_sample
    close(sample(model, x, solver=UniPC(2)), y, rtol=1e-4, atol=1e-4)


def test_unipc_keeps_what_correctors_did():
    """What moved x between two steps is still there after the solver's own correction."""
    model, state, x = Toy(path("flow"), cond=Steady(0.3)), {}, points()
    for i in range(4):
        moved = UniPC(2).correct(x + i, model(x, i), i, model, dict(state))
        close(moved, x + i, **EXACT)  # equal predictions: the solver itself corrects nothing
        x = UniPC(2).step(x + i, model(x, i), i, model, state)


@pytest.mark.parametrize("order", [0, 4, 2.5])
def test_unipc_refuses(order):
    with pytest.raises(BadValue):
        UniPC(order)


# DC-Solver


def test_dc_solver_at_one_is_unipc_bit_for_bit():
    for kind, space in PAIRS:
        for order in (1, 2, 3):
            model, x = Toy(path(kind), space, cond=CURVED), points()
            plain = sample(model, x, solver=UniPC(order))
            assert torch.equal(sample(model, x, solver=DCSolver(order)), plain)
            assert torch.equal(sample(model, x, solver=DCSolver(order, ratios=(1.0,) * 8)), plain)
            moved = sample(model, x, solver=DCSolver(order, ratios=(1.0, 1.0, 0.8, *(1.0,) * 5)))
            assert not torch.equal(moved, plain)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_lagrange_weights(degree):
    nodes = [0.9, 0.7, 0.3, 0.2][:degree + 1]
    for t in (0.3, 0.25, 0.6, -1.0):
        shares = lagrange(nodes, t)
        assert sum(shares) == pytest.approx(1.0)
        for power in range(degree + 1):
            assert sum(share * node**power for share, node in zip(shares, nodes)) == pytest.approx(t**power)
    assert lagrange(nodes, nodes[0]) == [1.0] + [0.0] * degree


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("times", [None, (900.0, 800.0, 500.0, 450.0, 300.0, 120.0, 90.0, 10.0)])
def test_dc_solver_moves_along_polynomials_exactly(degree, times):
    levels = path("flow")
    solver = DCSolver(ratios=(1.0,) * degree + (0.6,) * (8 - degree), degree=degree, times=times)
    at = times or levels.sigmas
    past = [(i, torch.tensor([at[i] ** degree])) for i in range(degree + 2)]
    target = 0.6 * at[degree + 1] + 0.4 * at[degree]
    (i, moved), *_ = solver.revise(past, levels)[::-1]
    assert i == degree + 1 and moved.item() == pytest.approx(target**degree, rel=1e-5)
    assert all(old is kept for old, kept in zip(past, solver.revise(past, levels)[:-1]))


def test_dc_solver_keeps_the_moved_prediction():
    """The replaced prediction is the one that later steps see."""
    model, state, solver = Toy(path("flow"), "flow", cond=CURVED), {}, DCSolver(ratios=(1.0, 1.0, 0.5, *(1.0,) * 5))
    x = points()
    for i in range(3):
        before, x = x, solver.step(x, model(x, i), i, model, state)
    own = convert(model(before, 2), before, *model.path.at(2), "flow", "x0")
    assert len(state["past"]) == 3 and not torch.allclose(state["past"][-1][1], own)


def test_search_finds_ratios_that_help():
    steps, fine, scale = 6, 40, 2.5
    levels, many = path("flow", steps), path("flow", steps * fine)
    fields = {"cond": CURVED, "uncond": WIDE}
    model, x = Toy(levels, "flow", scale, **fields), points(64)
    reference = list(sampled_path(Toy(many, "flow", scale, **fields), x))[fine - 1::fine]
    found = search_ratios(model, x, reference, scale)
    assert found.ratios[:2] == (1.0, 1.0) and len(set(found.ratios)) > 2 and model.calls == 0

    def at_step_2(ratio):
        solver, state, y = DCSolver(ratios=(1.0, 1.0, ratio, 1.0, 1.0, 1.0)), {}, x
        for i in range(3):
            y = solver.step(y, model(y, i), i, model, state)
        return (solver.correct(y, model(y, 3), 3, model, state) - reference[2]).square().mean().item()

    assert found.ratios[2] == pytest.approx(min((n / 200 for n in range(100, 301)), key=at_step_2), abs=0.006)

    def error(solver, x):
        goal = list(sampled_path(Toy(many, "flow", scale, **fields), x))[-1]
        return (sample(model, x, solver=solver) - goal).square().mean().item()

    assert error(found, x) < 0.9 * error(UniPC(2), x)
    assert error(found, points(64, seed=9)) < error(UniPC(2), points(64, seed=9))


def test_search_leaves_a_perfect_solver_alone():
    model, x = Toy(path("edm"), cond=normal(0.7, 1e-24)), points()
    reference = list(sampled_path(model, x, solver=UniPC(2)))
    found = search_ratios(model, x, reference)
    close(sample(model, x, solver=found), reference[-1], rtol=1e-9, atol=1e-9)
    with pytest.raises(BadValue, match="each of the 8 steps, got 7"):
        search_ratios(model, x, reference[:-1])


def test_golden_section():
    for best in (0.51, 0.8, 1.3):
        assert golden_section(lambda r, best=best: (r - best) ** 2, 0.5, 1.5, 30) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("make", [
    lambda: DCSolver(ratios=(0.9, 1.0, 1.0)), lambda: DCSolver(ratios=(1.0, 1.0, float("nan"))), lambda: DCSolver(degree=0),
    lambda: DCSolver(times=(1.0, 1.0)), lambda: DCSolver(times=(1.0, float("inf"))), lambda: DCSolver(order=5),
])
def test_dc_solver_refuses(make):
    with pytest.raises(BadValue):
        make()


def test_dc_solver_wants_a_ratio_per_step():
    for solver in (DCSolver(ratios=(1.0,) * 7), DCSolver(times=tuple(range(9)))):
        with pytest.raises(BadValue, match="each of the 8 steps"):
            sample(Toy(path("flow")), points(), solver=solver)


# Rectified-CFG++


@pytest.mark.parametrize("half_step", [True, False])
def test_rectified_cfgpp_off_is_conditional_euler(half_step):
    model = Toy(path("flow"), "flow")
    assert torch.equal(sample(model, points(), solver=RectifiedCFGpp(1.0, half_step=half_step)), sample(model, points()))
    assert model.beside == 0


@pytest.mark.parametrize("half_step", [True, False])
def test_rectified_cfgpp_of_steady_velocities_is_cfg(half_step):
    levels = path("flow")
    fields = {"cond": Steady(0.9), "uncond": Steady(0.4)}
    for scale, power in ((4.5, 0.0), (3.0, 1.5)):
        x = points()
        model = Toy(levels, "flow", **fields)
        for i, after in enumerate(sampled_path(model, x, solver=RectifiedCFGpp(scale, power, half_step))):
            w = 1 + (scale - 1) * (1 - levels.sigmas[i]) ** power
            close(after, x + (levels.sigmas[i + 1] - levels.sigmas[i]) * (0.4 + w * 0.5), **EXACT)
            x = after
        assert model.calls == model.beside == len(levels)


def test_rectified_cfgpp_step_by_step():
    levels = Path.flow((0.8, 0.3))
    model, x = Toy(levels, "flow"), points()
    u = PLAIN.predict(x, 0.2, 0.8, "flow")
    for half_step, sigma in ((True, 0.55), (False, 0.3)):
        ahead = x + (sigma - 0.8) * u
        push = PLAIN.predict(ahead, 1 - sigma, sigma, "flow") - WIDE.predict(ahead, 1 - sigma, sigma, "flow")
        close(sample(model, x, solver=RectifiedCFGpp(3.0, 2.0, half_step)), x - 0.5 * (u + 2 * 0.2**2 * push), **EXACT)


def test_rectified_cfgpp_refuses():
    with pytest.raises(Unsupported, match="this model predicts x0"):
        sample(Toy(path("flow")), points(), solver=RectifiedCFGpp())
    with pytest.raises(Unsupported, match="unconditional prediction"):
        sample(Toy(path("flow"), "flow", cond=PLAIN), points(), solver=RectifiedCFGpp())
    for wrong in ({"scale": 0.5}, {"scale": float("nan")}, {"power": -1.0}, {"power": float("inf")}):
        with pytest.raises(BadValue):
            RectifiedCFGpp(**wrong)


# the loop


def test_guided_is_exact_at_its_ends():
    p = {"cond": points().float(), "uncond": points(16, 4).float()}
    assert guided_prediction({"cond": p["cond"]}, 1.0, "x") is p["cond"]
    assert torch.equal(guided_prediction(p, 0.0, "x"), p["uncond"])
    close(guided_prediction(p, 7.0, "x"), p["uncond"] + 7 * (p["cond"] - p["uncond"]))
    with pytest.raises(Unsupported, match="pcg at scale 2 needs the unconditional prediction"):
        guided_prediction({"cond": p["cond"]}, 2.0, "pcg")


def test_loop_calls_the_model_once_per_step_and_reports():
    model, seen, states = Toy(path("vp"), "v"), [], []
    end = sample(model, points(), solver=UniPC(2), on_step=lambda *at: seen.append(at), states=states)
    assert seen == [(n, 8) for n in range(1, 9)] and model.calls == 8 and model.beside == 0
    assert len(states) == 1 and set(states[0]) == {"past", "order", "x", "predicted"}
    every = list(sampled_path(model, points(), solver=UniPC(2)))
    assert len(every) == 8 and torch.equal(every[-1], end)
    assert torch.equal(sample(model, points()), sample(model, points(), solver=Euler()))


def test_loop_starts_every_run_afresh():
    solver = UniPC(2)
    ends = [sample(Toy(path("flow"), "flow", cond=CURVED), points(), solver=solver) for _ in range(2)]
    assert torch.equal(*ends)


def test_loop_refuses_a_space_that_does_not_fit():
    for kind, space in (("edm", "flow"), ("flow", "v"), ("vp", "flow")):
        model = Toy(path(kind), space)
        with pytest.raises(BadValue, match=f"{space} predictions do not fit this path"):
            sampled_path(model, points())
        assert model.calls == 0


EVERY = [Euler(), UniPC(2), DCSolver(ratios=(1.0, 1.0) + (0.9,) * 6), RectifiedCFGpp(), ReverseSDE()]


@pytest.mark.parametrize("solver", EVERY)
def test_rows_are_their_own_samples_in_any_shape(solver):
    """Row i of a batch is the sample made alone, for images too, in fp32 and fp64."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x = points(3, shape=(2, 4, 4)).to(dtype)

        def run(rows):
            model = Toy(path("flow"), "flow", 2.0, cond=Tanh(1.0), uncond=Tanh(0.3))
            streams = Streams([digest(row) for row in rows])
            model.noise = lambda name, like: streams.normal(name, like)
            return sample(model, rows, solver=solver)

        together = run(x)
        assert together.dtype == dtype and together.shape == x.shape
        for i in range(3):
            close(together[i:i + 1], run(x[i:i + 1]), rtol=tolerance, atol=tolerance)


class Tanh:
    """A velocity that bends, for tensors of any rank."""

    def __init__(self, slope):
        self.slope = slope

    def predict(self, x, alpha, sigma, space):
        return torch.tanh(self.slope * x + sigma)


def test_registries():
    assert set(SOLVERS) == {"euler", "reverse-sde", "unipc", "dc-solver", "rectified-cfg++"}
    assert set(CORRECTORS) == {"pcg", "fkc", "fkc-product", "fkc-anneal", "z-sampling", "w2sd"}
    for name, part in {**SOLVERS, **CORRECTORS}.items():
        assert part.name == name and part.equation and part.paper.startswith("arXiv ") and part.cost and part.__doc__
    assert {part.kind for part in SOLVERS.values()} == {"solver"}
    assert {part.kind for part in CORRECTORS.values()} == {"corrector"}
    assert replace(UniPC(3), order=2) == UniPC()


def test_guided_euler_misses_the_power_product():
    """CFG on the ODE does not sample p^(1 - w) p(.|c)^w: the reason for the correctors."""
    model = Toy(Path.edm(geometric(40.0, 0.02, 200)), scale=2.0)
    end, true = sample(model, start(model, 4096)), power_product(WIDE, PLAIN, 2.0)
    assert end.var().item() < 0.6 * true.matrix.item() and end.mean().item() > true.mean.item() + 0.2
