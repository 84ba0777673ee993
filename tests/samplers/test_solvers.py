"""UniPC, DC-Solver and Rectified-CFG++."""

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from emag.errors import BadValue, Unsupported
from emag.maths.predictions import convert
from emag.samplers import (
    DCSolver,
    Path,
    RectifiedCFGpp,
    UniPC,
    predicted_ratios,
    sample,
    sampled_path,
    search_ratios,
)
from emag.samplers.dc_solver import golden_section, lagrange
from paths import CURVED, EXACT, PAIRS, PLAIN, WIDE, Steady, Toy, close, normal, path, points

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


@pytest.mark.parametrize(("scale", "steps", "told"), [
    (7.5, 5, (1, 1, 1.0271, 0.7392, 1.2263)), (4.5, 5, (1, 1, 1.0503, 0.6372, 1.3752)),
    (7.5, 10, (1, 1, 0.4446, 0.898, 1.0628, 1.0426, 0.9408, 0.861, 0.9068, 1.1816)),
])
def test_the_regression_gives_the_ratios_of_its_authors(scale, steps, told):
    assert predicted_ratios(scale, steps).ratios == pytest.approx(told, abs=6e-5)


@pytest.mark.parametrize(("scale", "steps"), [(8.0, 5), (1.0, 5), (7.5, 4), (7.5, 20), (7.5, 5.5), (float("nan"), 5)])
def test_the_regression_is_not_taken_elsewhere(scale, steps):
    with pytest.raises(BadValue, match="search_ratios"):
        predicted_ratios(scale, steps)


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
