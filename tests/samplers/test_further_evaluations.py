"""Parts of a sampler that look around before a step: CFG-MP, FSG, FDS and characteristic guidance."""

import math

import pytest
import torch

import emag
from emag.errors import BadValue, Unsupported
from emag.maths.predictions import convert
from emag.samplers import CFGMP, FDS, FSG, Characteristic, Path, sample
from emag.samplers.reflection import reflect
from emag.samplers.solvers import to_epsilon
from paths import EXACT, PAIRS, PLAIN, WIDE, Steady, Tanh, Toy, close, path, points


class Affine:
    """A velocity of its own for every model: slope x + shift."""

    def __init__(self, slope, shift):
        self.slope, self.shift = slope, shift

    def predict(self, x, alpha, sigma, space):
        return self.slope * x + self.shift


def flow(cond, uncond, sigmas=(0.9, 0.8, 0.0), scale=1.0):
    return Toy(Path.flow(sigmas), "flow", scale, cond=cond, uncond=uncond)


def moved(part, x, model, i=0, state=None):
    return part.before(x, i, model, {} if state is None else state)


# CFG-MP


def test_mp_by_hand():
    x, field = torch.tensor([[0.7]], dtype=torch.float64), Affine(2.0, 0.3)
    close(moved(CFGMP(1), x, flow(field, field)), torch.full_like(x, 0.6915))
    # from `swap` on the prompt comes first: z' = z + (h/2) c(z), then - (h/2) u(z')
    c, u, h = Affine(2.0, 0.3), Affine(1.0, 0.0), -0.1
    first = 0.7 + h / 2 * (2 * 0.7 + 0.3)
    close(moved(CFGMP(1, swap=0.9), x, flow(c, u)), torch.full_like(x, first - h / 2 * first))


@pytest.mark.parametrize("anderson", [False, True])
def test_mp_leaves_equal_fields_that_do_not_depend_on_x(anderson):
    model = flow(Steady(0.4), Steady(0.4))
    close(moved(CFGMP(3, anderson=anderson), points(), model), points(), **EXACT)


@pytest.mark.parametrize("anderson", [False, True])
def test_mp_comes_to_where_both_agree(anderson):
    """A fixed point: u(z) = c(z'). Anderson is there sooner."""
    c, u = Affine(1.0, 0.2), Affine(-3.0, 0.5)
    z = moved(CFGMP(200, anderson=anderson, ridge=1e-12), points(shape=(3,)), flow(c, u))
    there = z + 0.05 * u.predict(z, 0, 0, "")
    close(u.predict(z, 0, 0, ""), c.predict(there, 0, 0, ""), **EXACT)
    plain = moved(CFGMP(4), points(), flow(c, u))
    mixed = moved(CFGMP(4, anderson=True, ridge=1e-12), points(), flow(c, u))
    goal = moved(CFGMP(400), points(), flow(c, u))
    assert (mixed - goal).abs().max() < 1e-6 < (plain - goal).abs().max()  # one unknown a sample: two points tell it


def test_mp_acts_while_it_is_noisy_and_off_is_bit_identical():
    model = Toy(path("flow"), "flow")
    plain = sample(model, points())
    assert torch.equal(sample(model, points(), CFGMP(0)), plain) and model.beside == 0
    sample(model, points(), CFGMP(2))
    noisy = sum(sigma > 0.6 for sigma in model.path.sigmas[:-1])
    assert model.beside == 2 * 2 * noisy and min(sigma for _, sigma in model.levels) > 0.6
    with pytest.raises(Unsupported, match="flow predictions"):
        sample(Toy(path("vp"), "epsilon"), points(), CFGMP())


# FSG

PLAN = {"at": (0, 2), "interval": (3, 2), "repeats": (2, 1)}


@pytest.mark.parametrize(("kind", "space"), [pair for pair in PAIRS if pair[1] in ("epsilon", "flow")])
def test_fsg_looks_far_down_and_comes_back(kind, space):
    model, x = Toy(path(kind), space), points()
    cond, null = (lambda y, f=f: f.predict(y, *model.path.at(2), space) for f in (PLAIN, WIDE))
    by_hand = reflect(x, lambda y: null(y) + 4 * (cond(y) - null(y)), null, model.path, 2, space, 1, 2)
    close(moved(FSG(**PLAN, scale=4.0), x, model, 2), by_hand, **EXACT)
    assert torch.equal(moved(FSG(**PLAN), x, model, 1), x)


def test_fsg_without_guidance_is_the_identity_to_second_order():
    def error(far):
        model = Toy(Path.flow((0.5, 0.5 - far / 2, 0.5 - far)), "flow", cond=Tanh(1.0), uncond=Tanh(1.0))
        return (moved(FSG((0,), (2,), (1,), 0.0), points(), model) - points()).abs().max().item()

    assert math.log2(error(0.02) / error(0.01)) == pytest.approx(2, abs=0.1)


def test_fsg_counts_and_off_is_bit_identical():
    model = Toy(path("flow"), "flow")
    plain = sample(model, points())
    assert torch.equal(sample(model, points(), FSG((0, 2), (3, 2), (0, 0))), plain) and model.beside == 0
    sample(model, points(), FSG(**PLAN))
    assert model.beside == 2 * 3  # calls of the toy, which gives both at once
    for wrong in (FSG((6,), (2,), (1,)), FSG()):
        with pytest.raises(BadValue, match="choose earlier steps"):
            sample(model, points(), wrong)


def test_fsg_costs_three_evaluations_of_a_function():
    model = emag.guided(lambda x, t, shift: torch.tanh(x + shift), emag.CFG(emag.CFGpp(1.0)), path=(0.9, 0.6, 0.3, 0.0),
                        conditions={"cond": 0.5, "uncond": 0.0})
    sample(model, points(), FSG((0,), (2,), (2,)))
    assert model.beside == 3 * 2


# FDS


class Bumpy:
    """A velocity whose divergence differs from place to place: -cos x has the derivative sin x."""

    def predict(self, x, alpha, sigma, space):
        return -torch.cos(x)


def test_fds_keeps_moves_to_where_the_flow_spreads_less():
    model, x = flow(Bumpy(), Bumpy()), points(64, shape=(1,))
    state = {}
    made = FDS(0.5).before(x, 0, model, state)
    size = 0.5 * (1 + math.cos(math.pi * 0.1)) / 2
    tried = x + size * state["move"]
    # one dimension: the probe's sign squares away, and the divergence is the derivative
    helped = (-torch.sin(tried) < -torch.sin(x)) & (-torch.sin(tried) > -1 / 0.9)
    assert torch.equal(made, torch.where(helped, tried, x)) and 10 < helped.sum() < 54
    again = {**state}
    FDS(0.5).before(made, 0, model, again)
    assert torch.equal((again["move"] == state["move"])[:, 0], helped[:, 0])  # what helped is tried again


def test_fds_never_accepts_in_a_linear_field_and_never_below_its_bound():
    for slope in (-0.7, 0.0, 2.0):
        x = points(shape=(3,))
        assert torch.equal(moved(FDS(0.5), x, flow(Affine(slope, 0.1), Affine(slope, 0.1))), x)

    class Steep:
        def predict(self, x, alpha, sigma, space):
            return -100 * torch.cos(x / 10)  # derivative 10 sin(x / 10)

    x = torch.full((32, 1), 2.0, dtype=torch.float64)  # div = -1.99, below -1 / 0.9, and so are its neighbours
    assert torch.equal(moved(FDS(0.2), x, flow(Steep(), Steep())), x)


def test_fds_off_is_bit_identical_and_late_steps_are_left():
    model = Toy(path("flow"), "flow")
    plain = sample(model, points())
    assert torch.equal(sample(model, points(), FDS(0.0)), plain) and model.beside == 0
    sample(model, points(), FDS(0.3))
    assert model.beside == 2 * sum(sigma > 0.5 for sigma in model.path.sigmas[:-1])
    with pytest.raises(Unsupported, match="need"):
        moved(FDS(0.5), points(), flow(Steady(1.0), Steady(1.0)))


def test_fds_goes_through_a_guided_function_row_by_row():
    def run(x):
        model = emag.guided(lambda x, t, shift: torch.sin(3 * x + shift), emag.CFG(2.0), path=(0.9, 0.6, 0.3, 0.0),
                            conditions={"cond": 0.5, "uncond": 0.0})
        with torch.no_grad():
            return sample(model, x, FDS(0.4, cfg=2.0))

    x = points(4, shape=(2, 3))
    together = run(x)
    close(torch.cat([run(row[None]) for row in x]), together, **EXACT)
    assert not torch.allclose(together, sample(emag.guided(
        lambda x, t, shift: torch.sin(3 * x + shift), emag.CFG(2.0), path=(0.9, 0.6, 0.3, 0.0),
        conditions={"cond": 0.5, "uncond": 0.0}), x))


# characteristic guidance


@pytest.mark.parametrize(("kind", "space"), PAIRS)
def test_characteristic_of_steady_noise_is_cfg(kind, space):
    levels = path(kind)

    class Noise:
        """An epsilon that does not depend on x."""

        def __init__(self, value):
            self.value = value

        def predict(self, x, alpha, sigma, space):
            return convert(torch.full_like(x, self.value), x, alpha, sigma, "epsilon", space)

    fields = {"cond": Noise(0.3), "uncond": Noise(-0.2)}
    model, plain = Toy(levels, space, **fields), Toy(levels, space, 4.0, **fields)
    close(sample(model, points(), solver=Characteristic(4.0)), sample(plain, points()), rtol=1e-8, atol=1e-8)
    assert model.beside == 2 * 2 * 8  # shift 0, then the shift: both branches each


@pytest.mark.parametrize(("kind", "space"), PAIRS)
def test_characteristic_solves_its_equation(kind, space):
    """Gaussians: epsilon is affine in x, e = a x + b, so the shift has a closed form."""
    model, i, w, x = Toy(path(kind), space), 3, 3.0, points()
    alpha, sigma = model.path.at(i)

    def line(field):
        at = [to_epsilon(field.predict(torch.full((1, 1), v, dtype=x.dtype), alpha, sigma, space),
                         torch.full((1, 1), v, dtype=x.dtype), alpha, sigma, space).item() for v in (0.0, 1.0)]
        return at[1] - at[0], at[0]

    (a_c, b_c), (a_u, b_u) = line(PLAIN), line(WIDE)
    shift = sigma * ((a_u - a_c) * x + b_u - b_c) / (1 - sigma * (a_u * w - a_c * (w - 1)))
    expected = w * (a_c * (x + (w - 1) * shift) + b_c) - (w - 1) * (a_u * (x + w * shift) + b_u)
    close(Characteristic(w, tolerance=1e-12)._epsilon(x, i, model), expected, rtol=1e-7, atol=1e-7)


def test_characteristic_falls_back_to_cfg_sample_by_sample():
    """Where no iteration ends: epsilon with a kink at which the map jumps over its own fixed point."""
    class Jumping:
        def predict(self, x, alpha, sigma, space):
            return torch.where(x > 0, 5.0, -5.0).to(x) * (x.abs() < 50)

    model = Toy(Path.edm((1.0, 0.5)), "epsilon", cond=Steady(0.0), uncond=Jumping())
    x = torch.tensor([[0.1], [100.0]], dtype=torch.float64)
    found = Characteristic(2.0, iterations=3)._epsilon(x, 0, model)
    alone = torch.cat([Characteristic(2.0, iterations=3)._epsilon(row[None], 0, model) for row in x])
    assert torch.equal(found, alone)
    close(found, torch.tensor([[-5.0], [0.0]], dtype=torch.float64))


def test_characteristic_off_is_the_plain_step_and_it_guides_alone():
    model = Toy(path("flow"), "flow")
    assert torch.equal(sample(model, points(), solver=Characteristic(1.0)), sample(model, points()))
    function = emag.guided(lambda x, t, c: x, emag.CFG(3.0), path=(1.0, 0.5, 0.0), conditions={"cond": 1, "uncond": 0})
    with pytest.raises(BadValue, match="guide once more"):
        sample(function, points(), solver=Characteristic(4.0))


@pytest.mark.parametrize("make", [
    lambda: CFGMP(-1), lambda: CFGMP(until=2.0), lambda: CFGMP(ridge=0.0), lambda: FSG((0,), (1, 2), (1,)),
    lambda: FSG((0, 0), (1, 1), (1, 1)), lambda: FSG((0,), (0,), (1,)), lambda: FSG(scale=-1.0), lambda: FDS(-1.0),
    lambda: FDS(until=2.0), lambda: Characteristic(0.5), lambda: Characteristic(2.0, 0),
    lambda: Characteristic(2.0, tolerance=0)])
def test_values_out_of_range_are_refused(make):
    with pytest.raises(BadValue, match=r"must|needs|at least"):
        make()


@pytest.mark.parametrize("part", [CFGMP(), FSG((0,), (1,), (1,)), FDS()], ids=lambda part: part.name)
def test_a_model_without_a_null_condition_is_refused(part):
    model = Toy(path("flow"), "flow", cond=PLAIN)
    if part.name == "fds":
        part = FDS(cfg=3.0)
    with pytest.raises(Unsupported, match=r"unconditional|'uncond'"):
        sample(model, points(), part)
