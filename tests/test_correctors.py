"""Correctors against the distributions they claim to reach."""

import math

import pytest
import torch

import emag
from emag.errors import BadValue, Unsupported
from emag.maths.streams import Streams, digest
from emag.methods import METHODS
from emag.samplers import (
    FKC,
    PCG,
    W2SD,
    FKCAnneal,
    FKCProduct,
    Path,
    Reflection,
    ReverseSDE,
    UniPC,
    effective_size,
    resample,
    sample,
    sampled_path,
)
from emag.samplers.particles import pairs, squares
from emag.samplers.reflection import reflect
from emag.samplers.reverse_sde import surplus
from emag.samplers.solvers import to_epsilon
from exact import Mixture, power_product
from test_samplers import (
    EXACT,
    PAIRS,
    PLAIN,
    WIDE,
    Steady,
    Tanh,
    Toy,
    close,
    every_pair,
    geometric,
    normal,
    path,
    points,
    start,
)

GROUPS, PARTICLES = 16, 1024
COARSE = {"rtol": 0, "atol": 1e-3, "check_dtype": False}


def misses(x, mean, var):
    """Distance of the mean of x, or its mean square about `mean`, to the truth, in standard errors of 4096 particles.

    The error is measured between 16 independent groups: it holds what resampling adds.
    """
    groups = x.view(GROUPS, -1)
    found = torch.stack([groups.mean(1), (groups - mean).square().mean(1)])
    error = found.std(1) * math.sqrt(groups.shape[1] / 4096)
    return ((found.mean(1) - torch.tensor([mean, var])).abs() / error).max().item()


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


# the distributions


def run(how=None, scale=1.0, steps=480, **fields):
    """16 groups of 1024 particles; `how` is a Feynman-Kac corrector, or a solver alone."""
    model = Toy(Path.edm(geometric(20.0, 0.05, steps)), "x0", scale, **fields)
    x = start(model, GROUPS * PARTICLES)
    return sample(model, x, solver=how) if how is None or how.kind == "solver" else sample(model, x, how, solver=how.solver)


def test_fkc_reaches_the_power_product_and_cfg_does_not():
    true = power_product(WIDE, PLAIN, 2.0)
    mean, var = true.mean.item(), true.matrix.item()
    assert misses(run(FKC(2.0, particles=PARTICLES)), mean, var) < 3
    for solver in (None, ReverseSDE()):
        assert misses(run(solver, 2.0), mean, var) > 9


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


def test_product_reaches_the_product():
    fields, product = {"a": normal(-1.0, 1.0), "b": normal(2.0, 2.0)}, FKCProduct(("a", "b"), particles=PARTICLES)
    assert misses(run(product, **fields), 0.0, 2 / 3) < 3
    assert misses(run(product.solver, **fields), 0.0, 2 / 3) > 9


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_annealing_reaches_the_power(power):
    anneal = FKCAnneal(power, particles=PARTICLES)
    assert misses(run(anneal), 1.5, 1 / power) < 3
    assert misses(run(anneal.solver), 1.5, 1 / power) > 9


SIXTY = {"edm": (Path.edm(geometric(20.0, 0.05, 60)), "x0"),
         "flow": (Path.flow(tuple(1 - i / 60 for i in range(61))), "flow")}


@pytest.mark.parametrize("kind", SIXTY)
@pytest.mark.parametrize(("corrector", "fields", "var"), [
    (FKC(5.0), {"cond": (0.0, 1.0), "uncond": (0.0, 4.0)}, 0.25),
    (FKC(2.0), {"cond": (0.0, 0.4), "uncond": (0.0, 1.0)}, 0.25),
    (FKCAnneal(4.0), {"cond": (0.0, 1.0)}, 0.25), (FKCAnneal(0.5), {"cond": (0.0, 1.0)}, 2.0),
    (FKCProduct(branches=("a", "b")), {"a": (0.0, 1.0), "b": (0.0, 2.0)}, 2 / 3),
], ids=["cfg", "narrow", "sharp", "flat", "product"])
def test_sixty_steps_are_enough(kind, corrector, fields, var):
    """The noise of a step is what its weights assume: the target's variance to 12 % in 60 steps, from pure noise too."""
    levels, space = SIXTY[kind]
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


# FKC in the loop


@pytest.mark.parametrize("make", [lambda: FKC(2.0), lambda: FKCAnneal(2.0), lambda: FKCProduct(("cond", "uncond"))])
def test_paths_of_one_noise_level_agree(make):
    """In z = x / alpha the weighted SDE is one and the same on every path and in every space."""
    k, corrector, ends = geometric(9.0, 0.2, 6), make(), []
    flow, vp = tuple(v / (1 + v) for v in k), tuple(v / math.hypot(1, v) for v in k)
    for levels, spaces in ((Path.edm(k), ("x0", "epsilon")), (Path.flow(flow), ("flow", "x0")),
                           (Path.variance_preserving(vp), ("v", "epsilon"))):
        for space in spaces:
            x, states = levels.alphas[0] * 9.0 * points(64), []
            end = sample(Toy(levels, space), x, corrector, solver=corrector.solver, states=states)
            ends.append(torch.cat([end[:, 0], states[0]["log_weights"], *states[0]["ess"]]))
    for end in ends[1:]:
        close(end, ends[0], **EXACT)


def test_fkc_off_is_the_plain_sde_bit_for_bit():
    for scale in (0.0, 1.0):
        model, twin = (Toy(path("flow"), "flow", scale) for _ in range(2))
        streams = Streams([digest(row) for row in points()])
        model.noise = twin.noise = lambda name, like, streams=streams: streams.normal(name, like)
        fkc = FKC(scale)
        assert torch.equal(sample(model, points(), fkc, solver=fkc.solver),
                           sample(twin, points(), solver=ReverseSDE(spread=1.0)))


def test_fkc_follows_a_model_that_is_guided_itself():
    ends = []
    for solver, scale in ((FKC(2.0).solver, 1.0), (ReverseSDE(), 2.0)):
        ends.append(sample(Toy(path("flow"), "flow", scale), points(64), FKC(2.0), solver=solver))
    close(*ends, **EXACT)


class Named(Toy):
    """A toy that knows the condition of each of its samples."""

    def __init__(self, labels, *args, **fields):
        super().__init__(*args, **fields)
        self.labels, self.asked = labels, None

    def want(self, names):
        self.asked = names

    def groups(self, count):
        return self.labels[:count]


def test_particles_are_those_of_one_condition():
    """Samples of two conditions in turns give what each condition gives alone; explicit groups must not mix them."""
    x, fields = points(12, shape=(1, 2, 2)), {"cond": Tanh(1.0), "uncond": Tanh(0.3)}
    labels = [0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1]

    def run(rows, labels):
        model, streams = Named(labels, path("flow"), "flow", **fields), Streams([digest(row) for row in rows])
        model.noise = lambda name, like: streams.normal(name, like)
        fkc, states = FKC(3.0), []
        return sample(model, rows, fkc, solver=fkc.solver, states=states), [len(group) for group in states[0]["groups"]]

    together, sizes = run(x, labels)
    assert sizes == [5, 7]
    for label in (0, 1):
        rows = [row for row in range(12) if labels[row] == label]
        close(together[rows], run(x[rows], [label] * len(rows))[0], **EXACT)
    model = Named(labels, path("flow"), "flow", **fields)
    with pytest.raises(BadValue, match="several conditions together: 4 consecutive"):
        sample(model, x, FKC(3.0, particles=4), solver=ReverseSDE())
    assert model.calls == 0 and model.asked == ("uncond", "cond")


def test_a_lone_particle_is_told(caplog):
    sample(Named([0, 1, 1], path("flow"), "flow"), points(3), FKC(2.0), solver=ReverseSDE())
    assert "fkc has a single image of some condition" in caplog.text


def test_groups_do_not_mix():
    """A group of a batch gives what it gives alone."""
    x = points(12, shape=(1, 2, 2))
    fields, fkc = {"cond": Tanh(1.0), "uncond": Tanh(0.3)}, FKC(3.0, particles=4)

    def run(rows):
        model, streams = Toy(path("flow"), "flow", **fields), Streams([digest(row) for row in rows])
        model.noise = lambda name, like: streams.normal(name, like)
        states = []
        return sample(model, rows, fkc, solver=fkc.solver, states=states), states[0]["log_weights"]

    together, weights = run(x)
    for g in range(3):
        alone, own = run(x[4 * g:4 * g + 4])
        close(together[4 * g:4 * g + 4], alone, **EXACT)
        close(weights[4 * g:4 * g + 4], own, **EXACT)


def resampled(fkc, steps=8):
    """The steps after which a run of equally distant particles resamples."""
    model, states, found = Toy(path("edm", steps)), [], []
    for i, _ in enumerate(sampled_path(model, start(model, 64), fkc, solver=fkc.solver, states=states)):
        found += [i] if not states[0]["log_weights"].any() else []
    assert len(states[0]["ess"]) == steps
    return found


def test_when_particles_are_resampled():
    """Always, never, or where few are left: and a last time before the last step that adds noise, so that copies part."""
    assert resampled(FKC(3.0, threshold=1.0)) == [*range(6)]
    assert resampled(FKC(3.0, threshold=0.0)) == []
    some = resampled(FKC(3.0))
    assert some[-1] == 5 and 1 < len(some) < 6
    assert resampled(FKC(1.01, threshold=0.01)) == [5] and resampled(FKC(3.0), 2) == []


def test_no_two_images_are_the_same():
    model, fkc = Toy(path("edm")), FKC(20.0)
    assert len(sample(model, start(model, 64), fkc, solver=fkc.solver).unique()) == 64


def test_threshold_resamples_the_poor_groups_only():
    model, state = Toy(Path.edm((2.0, 0.5, 0.1, 0.05))), {}
    x = torch.cat([torch.full((4, 1), 0.7), torch.tensor([[-9.0], [0.0], [3.0], [9.0]])]).double()
    fkc = FKC(2.0, particles=4, threshold=0.5)
    model(fkc.before(x, 0, model, state), 0)
    moved = fkc.after(x, 0, model, state)
    assert torch.equal(moved[:4], x[:4]) and not torch.equal(moved[4:], x[4:])
    assert state["log_weights"][:4].all() and not state["log_weights"][4:].any()
    assert state["ess"][0][0] > 2 >= state["ess"][0][1]


def test_centre_and_clamp():
    model, x = Toy(Path.edm((2.0, 0.5))), torch.tensor([[-9.0], [0.0], [3.0], [9.0]], dtype=torch.float64)

    def weights(**how):
        state = {}
        fkc = FKC(2.0, particles=2, **how)
        model(fkc.before(x, 0, model, state), 0)
        fkc.after(x, 0, model, state)
        return state["log_weights"]

    plain = weights()
    centred = plain - plain.view(2, 2).mean(1).repeat_interleave(2)
    close(weights(centre=True), centred, **EXACT)
    close(weights(clamp=0.5), plain.clamp(-0.5, 0.5), **EXACT)
    close(weights(centre=True, clamp=1.0), centred.clamp(-1, 1), **EXACT)


def test_floor_in_the_loop():
    """Where the weights part by hundreds, one particle is left, unless they have a floor."""
    model, x = Toy(Path.edm((2.0, 0.5, 0.1))), torch.tensor([[-200.0], [0.0], [3.0], [9.0]], dtype=torch.float64)
    for floor, left in ((0.0, 1), (0.9, 4)):
        fkc, state = FKC(2.0, floor=floor), {}
        model(fkc.before(x, 0, model, state), 0)
        assert len(fkc.after(x, 0, model, state).unique()) == left


def test_the_noise_to_start_from_has_the_variance_of_the_power():
    x, model = points(), Toy(path("edm"))
    for corrector, total in ((FKC(3.0), 1), (FKCAnneal(0.5), 0.5), (FKCProduct(("cond", "uncond")), 2)):
        close(corrector.before(x, 0, model, {}), x / math.sqrt(total), **EXACT)
        assert corrector.before(x, 1, model, {}) is x


class Ruled(Toy):
    """A toy with rules."""

    def __init__(self, *rules):
        super().__init__(path("edm"))
        self.rules = rules


def test_fkc_refuses_what_its_theory_excludes():
    model = Toy(path("edm"))
    for corrector in (FKC(2.0), FKCAnneal(2.0), FKCProduct(("cond", "uncond"))):
        for solver in (None, UniPC(2)):
            with pytest.raises(Unsupported, match="needs a solver that adds noise"):
                sample(model, points(), corrector, solver=solver)
        for solver in (ReverseSDE((("cond", 3.0),)), ReverseSDE(spread=0.5)):
            with pytest.raises(Unsupported, match="weighs the steps of"):
                sample(model, points(), corrector, solver=solver)
    with pytest.raises(BadValue, match="fkc weighs the step itself: name pcg before it"):
        sample(model, points(), FKC(2.0), PCG(), solver=ReverseSDE())
    with pytest.raises(BadValue, match="batch of 16 into groups of 5"):
        sample(model, points(), FKC(2.0, particles=5), solver=ReverseSDE())
    assert model.calls == 0
    with pytest.raises(Unsupported, match="needs the predictions uncond"):
        sample(Toy(path("edm"), cond=PLAIN), points(), FKC(2.0), solver=ReverseSDE())


@pytest.mark.parametrize("rule", [emag.EMAG(2.0), emag.APG(3.0), METHODS["ag"](0.9), METHODS["rescale"](0.7),
                                  emag.CFG(2.0, channels=3)])
def test_fkc_refuses_rules_its_weights_do_not_know(rule):
    model = Ruled(rule)
    with pytest.raises(Unsupported, match=f"{rule.name} moves the prediction, or keeps"):
        sample(model, points(), FKC(2.0), solver=ReverseSDE())
    assert model.calls == 0


def test_fkc_says_that_another_cfg_scale_plays_no_part(caplog):
    sample(Ruled(emag.CFG(2.0), emag.CADS(0.1, 0.4, 0.8, 0.5)), points(), FKC(2.0), solver=ReverseSDE())
    assert not caplog.text
    sample(Ruled(emag.CFG(1.5)), points(), FKC(2.0), solver=ReverseSDE())
    assert "fkc steps along -1 uncond +2 cond; cfg's scale of 1.5 is not used" in caplog.text


def test_powers_refuse_a_rule_they_would_ignore():
    with pytest.raises(Unsupported, match="emag would have no effect"):
        sample(Ruled(emag.EMAG(2.0)), points(), solver=ReverseSDE((("cond", 2.0),)))


@pytest.mark.parametrize("make", [
    lambda: FKC(-1.0), lambda: FKC(math.inf), lambda: FKC(math.nan), lambda: FKC(2.0, particles=0),
    lambda: FKC(2.0, threshold=1.5), lambda: FKC(2.0, threshold=math.nan), lambda: FKC(2.0, clamp=0.0),
    lambda: FKC(2.0, clamp=math.inf), lambda: FKC(2.0, floor=1.0), lambda: FKC(2.0, floor=-0.1), lambda: FKCAnneal(0.0),
    lambda: FKCAnneal(math.inf), lambda: FKCProduct(("a",)), lambda: FKCProduct(("a", "a")),
])
def test_fkc_parameters(make):
    with pytest.raises(BadValue):
        make()


# reflection


@pytest.mark.parametrize(("kind", "space"), [pair for pair in PAIRS if pair[1] in ("epsilon", "flow")])
def test_a_steady_field_reflects_onto_itself(kind, space):
    levels, x, steady = path(kind), points(), points(16, 4)
    for i in range(8):
        close(reflect(x, lambda y: steady, lambda y: steady, levels, i, space, repeats=3), x, **EXACT)


def test_reflection_formulas():
    """Flow: x + (sigma' - sigma) (u_s(x) - u_w(x')). Noise: x + (b/a) (e_s(x) - e_w(x')) where x' = a x + b e_s(x)."""
    strong, weak, x = torch.tanh, torch.sin, points()
    levels = path("flow")
    dt = levels.sigmas[3] - levels.sigmas[2]
    down = x + dt * torch.tanh(x)
    close(reflect(x, strong, weak, levels, 2, "flow"), x + dt * (strong(x) - weak(down)), **EXACT)
    levels = path("vp")
    (alpha, sigma), (alpha2, sigma2) = levels.at(2), levels.at(3)
    a = alpha2 / alpha
    b = sigma2 - a * sigma
    close(reflect(x, strong, weak, levels, 2, "epsilon"), x + b / a * (strong(x) - weak(a * x + b * strong(x))), **EXACT)


def test_equal_scales_reflect_to_second_order():
    def error(step):
        levels, x = Path.flow((0.5, 0.5 - step)), points()
        return (reflect(x, torch.tanh, torch.tanh, levels, 0, "flow") - x).abs().max().item()

    assert math.log2(error(0.02) / error(0.01)) == pytest.approx(2, abs=0.1)


def test_reflection_off_is_bit_identical():
    for kind, space in PAIRS:
        model = Toy(path(kind), space)
        plain = sample(model, points())
        for corrector in (Reflection(until=0), W2SD(model, until=0)):
            assert torch.equal(sample(model, points(), corrector), plain)
        assert model.beside == 0
        assert not torch.equal(sample(model, points(), Reflection()), plain)


def test_reflection_uses_its_scales_at_the_level_of_the_step():
    model, x = Toy(path("flow"), "flow", 2.0), points()
    cond, null = (lambda y, f=f: f.predict(y, *model.path.at(1), "flow") for f in (PLAIN, WIDE))
    by_hand = reflect(x, lambda y: null(y) + 4 * (cond(y) - null(y)), lambda y: null(y) + 0.5 * (cond(y) - null(y)),
                      model.path, 1, "flow", 2)
    close(Reflection(4.0, 0.5, repeats=2).before(x, 1, model, {}), by_hand, **EXACT)
    assert model.levels == [model.path.at(1)] * 4 and model.calls == 0


def test_reflection_counts():
    """Two evaluations beside each reflected step: all steps but the last, or the first `until`."""
    for until, steps in ((None, 7), (3, 3), (8, 8), (99, 8)):
        model = Toy(path("flow"), "flow")
        sample(model, points(), Reflection(until=until, repeats=2))
        assert model.beside == 4 * steps and model.calls == 8


def test_w2sd_with_the_model_itself_is_z_sampling():
    model, weaker = Toy(path("flow"), "flow"), Toy(path("flow"), "flow", cond=WIDE)
    z = sample(model, points(), Reflection(4.0, 0.5))
    assert torch.equal(sample(model, points(), W2SD(model, 4.0, 0.5)), z)
    assert not torch.equal(sample(model, points(), W2SD(weaker, 4.0, 1.0)), z)
    assert weaker.beside == 7 and weaker.calls == 0


def test_reflection_pushes_from_weak_to_strong():
    """A stronger condition on the way down than up moves x along cond - uncond."""
    model = Toy(path("flow"), "flow", cond=Steady(-1.0), uncond=Steady(0.0))
    x = Reflection(5.5, 0.0).before(points(), 0, model, {})
    close(x, points() + (model.path.sigmas[1] - model.path.sigmas[0]) * -5.5, **EXACT)
    assert (x > points()).all()


def test_reflection_on_unipc_is_not_undone():
    model = Toy(path("flow"), "flow")
    plain = sample(model, points(), solver=UniPC(2))
    assert (sample(model, points(), Reflection(), solver=UniPC(2)) - plain).abs().max() > 1e-2


def test_reflection_refuses():
    for wrong in ({"high": -1.0}, {"low": math.nan}, {"high": math.inf}, {"until": -1}, {"repeats": 0}):
        with pytest.raises(BadValue, match=f"z-sampling {next(iter(wrong))}"):
            Reflection(**wrong)
        with pytest.raises(BadValue, match=f"w2sd {next(iter(wrong))}"):
            W2SD(Toy(path("flow"), "flow"), **wrong)
    with pytest.raises(Unsupported, match="needs the unconditional prediction"):
        sample(Toy(path("flow"), "flow", cond=PLAIN), points(), Reflection())
    with pytest.raises(Unsupported, match="same path"):
        sample(Toy(path("flow"), "flow"), points(), W2SD(Toy(path("flow", 9), "flow")))


@pytest.mark.parametrize("corrector", [PCG(2), Reflection(), W2SD(Toy(path("flow"), "flow", cond=Tanh(0.2)))])
def test_rows_are_their_own_samples(corrector):
    x = points(3, shape=(2, 3, 3))

    def run(rows):
        model, streams = Toy(path("flow"), "flow", cond=Tanh(1.0), uncond=Tanh(0.3)), Streams([digest(row) for row in rows])
        model.noise = lambda name, like: streams.normal(name, like)
        return sample(model, rows, corrector)

    together = run(x)
    for i in range(3):
        close(together[i:i + 1], run(x[i:i + 1]), **EXACT)
    assert run(x.float()).dtype == torch.float32
