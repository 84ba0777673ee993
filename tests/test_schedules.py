"""Schedules against their formulas, and against the methods that they stand for."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import emag
from emag.core import COND, UNCOND, Step, combine
from emag.errors import BadValue
from emag.maths.predictions import convert, difference_scale
from emag.maths.streams import Streams
from emag.records import recipe
from emag.schedules import (
    MAMBOG,
    SCHEDULES,
    Annealing,
    BetaCFG,
    CFGpp,
    Curve,
    Feedback,
    Interval,
    Rectified,
)
from emag.schedules.annealing import features, read_head
from emag.schedules.curves import SHAPES
from emag.schedules.feedback import stepped
from emag.schedules.normed import beta_density
from emag.schedules.renoise import renoised
from exact import Gaussian
from heads import SIZES, head, written
from reference import SPACES, at_step, branches_in, tensors
from spy import Counter, attention_of
from tiny import CASES

close = torch.testing.assert_close
exact = {"atol": 1e-10, "rtol": 1e-10}
FINE = 2001


def grid(count=FINE):
    """Steps evenly spread over a flow run from pure noise; x is not needed."""
    sigmas = tuple(1 - i / count for i in range(count))
    nothing = torch.empty(0)
    return [Step(i, sigmas, tuple(1 - s for s in sigmas), sigmas[i], "flow", nothing, Streams([])) for i in range(count)]


STEPS = grid()


def values(schedule, steps=STEPS):
    return [schedule.known(step) for step in steps]


def branches(seed=1, dtype=torch.float64, rows=3):
    cond, uncond = (t.to(dtype) for t in tensors(seed, 2, rows, 4, 6, 6))
    return {COND: cond, UNCOND: 0.5 * cond + uncond}


def levels(path, count):
    """Noise levels of a run; on a flow it starts at pure noise."""
    sigmas = tuple((1.0 if path == "flow" else 0.999) - i / count for i in range(count))
    return sigmas, tuple(1 - s if path == "flow" else math.sqrt(1 - s * s) for s in sigmas)


def at(path="vp", space="epsilon", index=4, rows=3, **more):
    """One of 8 steps."""
    sigmas, alphas = levels(path, 8)
    x = tensors(99, 1, rows, 4, 6, 6)[0].double()
    return at_step(path, space, x, **{"index": index, "sigmas": sigmas, "alphas": alphas, **more})


def guided(schedule, p, step, state=None):
    return combine((emag.CFG(schedule),), p[COND], p, step, [{} if state is None else state])


def norms(x):
    return x.flatten(1).norm(dim=1)


# limited interval (M07)


def test_the_published_interval_is_the_published_steps():
    """Sigmas of EDM2's 32 Heun steps: (0.19, 1.61] is the index range 17 to 22 of the authors' code."""
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    sigmas = tuple((high + i / 31 * (low - high)) ** 7 for i in range(32))
    steps = [replace(STEPS[0], index=i, sigmas=sigmas, alphas=(1.0,) * 32) for i in range(32)]
    assert [i for i, w in enumerate(values(Interval(2.0), steps)) if w != 1] == list(range(17, 23))


def test_an_interval_excludes_its_low_and_includes_its_high_end():
    steps = [replace(STEPS[0], index=i, sigmas=(0.8, 0.6, 0.4), alphas=(1.0,) * 3) for i in range(3)]
    assert values(Interval(3.0, 0.4, 0.6), steps) == [1.0, 3.0, 1.0]


def test_empty_and_full_intervals():
    p, step = branches(), at()
    assert torch.equal(guided(Interval(4.0, 0.0, 0.0), p, step), p[COND])
    assert torch.equal(guided(Interval(4.0, 0.0, 1e9), p, step), guided(4.0, p, step))


@pytest.mark.parametrize("case", ["sd3", "true-cfg"])
def test_an_interval_evaluates_as_many_rows_as_it_guides(case):
    pipe = CASES[case].pipe()
    counter = Counter(pipe.transformer, attention_of(case))
    with emag.guide(pipe, emag.CFG(Interval(3.0, 0.25, 0.75, "progress"))):
        CASES[case].run(pipe)
    assert set(counter.blocks.values()) == {2 * (8 + 4)}


# weight schedulers (M08)


@pytest.mark.parametrize("convention", ["w", "y"])
@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "power-cosine"])
def test_curves_keep_the_mean(shape, falling, convention):
    found = values(Curve(5.0, shape, falling, convention=convention))
    assert sum(found) / FINE == pytest.approx(5.0, abs=5e-3)
    assert max(found) - min(found) == pytest.approx(10.0 if convention == "w" else 8.0, abs=1e-2)


FORMULAS = {
    ("linear", False): lambda tau: 10 * tau, ("linear", True): lambda tau: 10 * (1 - tau),
    ("cosine", False): lambda tau: 5 * (1 - math.cos(math.pi * tau)),
    ("sine", False): lambda tau: 5 * (1 + math.cos(math.pi * tau)),
    ("cosine", True): lambda tau: 5 * (1 + math.cos(math.pi * tau)),
    ("lambda", False): lambda tau: 20 * min(tau, 1 - tau), ("v", False): lambda tau: 10 - 20 * min(tau, 1 - tau)}


@pytest.mark.parametrize(("shape", "falling"), FORMULAS)
def test_curves_are_the_papers(shape, falling):
    steps = grid(11)
    expected = [FORMULAS[shape, falling](i / 10) for i in range(11)]
    assert values(Curve(5.0, shape, falling, convention="w"), steps) == pytest.approx(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_two_conventions_are_one_curve(shape):
    """y-form: w = 1 + y, with y shaped as w is in the w-form."""
    shaped = values(Curve(3.0, shape, convention="w"))
    assert values(Curve(4.0, shape)) == pytest.approx([1 + y for y in shaped])
    assert values(Curve(1.0, shape)) == [1.0] * FINE


@pytest.mark.parametrize("power", [0.01, 1, 4])
def test_the_power_cosine(power):
    found = values(Curve(6.0, "power-cosine", power=power, convention="w"))
    assert found[0] == 0 and found[-1] == pytest.approx(6.0)
    assert found == sorted(found)
    mean = {1: 0.5, 4: 0.178}
    if power in mean:
        assert sum(found) / FINE / 6 == pytest.approx(mean[power], abs=2e-3)


def test_mdt_is_the_power_cosine_over_1():
    found, steps = values(Curve(3.8, "power-cosine"), grid(51)), 50
    assert found[0] == 1 and found[-1] == pytest.approx(3.8)
    assert found == pytest.approx([1 + 2.8 * (1 - math.cos(math.pi * (i / steps) ** 4)) / 2 for i in range(51)])


def test_a_floor_clamps():
    free = values(Curve(2.0, "linear", convention="w"))
    assert values(Curve(2.0, "linear", convention="w", floor=1.5)) == [max(1.5, w) for w in free]
    assert values(Curve(2.0, "linear", convention="w", floor=4.0)) == [4.0] * FINE


def test_one_step_is_the_start():
    assert values(Curve(5.0, "linear", convention="w"), grid(1)) == [0.0]
    assert all(math.isfinite(w) for shape in SHAPES for w in values(Curve(5.0, shape), grid(1)))


# Rectified-CFG++ as a scale (M03b)


def test_rectified_is_its_formula_and_its_limits():
    steps = grid(11)
    found = values(Rectified(4.5, 1.5), steps)
    assert found == pytest.approx([1 + 3.5 * (i / 11) ** 1.5 for i in range(11)])
    assert values(Rectified(4.5, 0.0), steps) == [4.5] * 11
    assert values(Rectified(1.0, 1.5), steps) == [1.0] * 11


def test_rectified_on_constant_velocities_is_the_predictor_corrector():
    """Half a step along c, then c + lambda (1 - t)^g (c - u) with both taken there."""
    (cond, uncond), lam, power = (t.double() for t in tensors(5, 2)), 3.5, 1.5
    x = other = tensors(6, 1)[0].double()
    for step in grid(7):
        (_, s), (_, after) = (step.alpha, step.sigma), step.next
        p = {COND: cond, UNCOND: uncond}
        x = x + (after - s) * guided(Rectified(1 + lam, power), p, replace(step, x=x))
        other = other + (after - s) * (cond + lam * (1 - s) ** power * (cond - uncond))
    close(x, other, **exact)
    alone = tensors(6, 1)[0].double() - cond
    assert not torch.allclose(x, alone)


# beta-CFG (M09)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 2), (2, 3), (1.5, 4)])
def test_the_density_is_that_of_the_beta_distribution(a, b):
    known = torch.distributions.Beta(torch.tensor(float(a)).double(), torch.tensor(float(b)).double())
    for tau in (0.1, 0.37, 0.8):
        assert beta_density(tau, a, b) == pytest.approx(float(known.log_prob(torch.tensor(tau).double()).exp()))
    assert sum(beta_density(i / FINE, a, b) for i in range(1, FINE)) / FINE == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
def test_beta_cfg_pushes_by_a_known_norm_in_epsilon(path, space):
    step = at(path, space)
    p = branches_in(space, step, "x0", branches())
    moved = guided(BetaCFG(7.5, 2, 3), p, step) - p[UNCOND]
    factor = abs(difference_scale(step.alpha, step.sigma, space, "epsilon"))
    close(norms(moved) * factor, torch.full((3,), 7.5 * beta_density(4 / 7, 2, 3), dtype=torch.float64), **exact)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_beta_cfg_divides_by_a_power_of_the_norm(gamma):
    p, step = branches(), at()
    apart = p[COND] - p[UNCOND]
    expected = p[UNCOND] + (3 * beta_density(4 / 7, 2, 2) / norms(apart) ** gamma).view(-1, 1, 1, 1) * apart
    close(guided(BetaCFG(3.0, gamma=gamma), p, step), expected, **exact)


def test_beta_cfg_without_curve_and_norm_is_cfg():
    p, step = branches(), at()
    assert torch.equal(guided(BetaCFG(3.0, 1, 1, gamma=0.0), p, step), guided(3.0, p, step))


def test_beta_cfg_starts_and_ends_unconditional():
    p = branches()
    for index in (0, 7):
        assert torch.equal(guided(BetaCFG(7.5), p, at(index=index)), p[UNCOND])


def test_beta_cfg_normalised_peaks_at_the_scale():
    found = values(BetaCFG(7.5, 2, 3, gamma=0.0, normalise=True))
    assert max(found) == pytest.approx(7.5, abs=1e-4)
    assert values(BetaCFG(7.5, 1, 1, gamma=0.0, normalise=True), grid(4)) == [7.5] * 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_beta_cfg_survives_equal_branches_and_pure_noise(dtype):
    p = branches(dtype=dtype)
    same = {COND: p[COND], UNCOND: p[COND].clone()}
    assert torch.equal(guided(BetaCFG(7.5), same, at()), p[COND])
    rounding = {COND: p[COND], UNCOND: torch.nextafter(p[COND].float(), p[COND].float() + 1).to(dtype)}
    assert guided(BetaCFG(7.5), rounding, at()).isfinite().all()
    noise = at("flow", "flow", alphas=(0.0,) * 8, sigmas=(1.0,) * 8)
    assert torch.equal(guided(BetaCFG(7.5), p, noise), p[COND])


# MAMBO-G (M09b)


def test_mambo_g():
    p, step = branches(), at()
    weight = 1 + 9 * torch.exp(-2 * norms(p[COND] - p[UNCOND]) / norms(p[UNCOND]))
    close(MAMBOG(10.0, 2.0).at(p, step, {}), weight, **exact)
    assert len(set(weight.tolist())) == 3
    close(guided(MAMBOG(10.0, 2.0), p, step), p[UNCOND] + weight.view(-1, 1, 1, 1) * (p[COND] - p[UNCOND]), **exact)


def test_mambo_g_limits():
    p, step = branches(), at()
    assert torch.equal(guided(MAMBOG(4.0, 0.0), p, step), guided(4.0, p, step))
    assert torch.equal(guided(MAMBOG(1.0), p, step), p[COND])
    zero = {COND: p[COND], UNCOND: torch.zeros_like(p[COND])}
    assert torch.equal(guided(MAMBOG(9.0), zero, step), p[COND])
    nothing = {name: torch.zeros_like(t) for name, t in p.items()}
    assert torch.equal(guided(MAMBOG(9.0), nothing, step), nothing[COND])


def test_mambo_g_falls_with_the_ratio():
    unit = tensors(3, 1, 1, 4, 6, 6)[0].double()
    weights = [float(MAMBOG(8.0).at({COND: unit * (1 + far), UNCOND: unit}, at(rows=1), {})) for far in (0, 0.1, 0.3, 1, 3)]
    assert weights == sorted(weights, reverse=True) and weights[0] == 8 and weights[-1] > 1


# CFG++ (M03)

WIDE, NARROW = (Gaussian(torch.tensor(m).double(), torch.tensor(c).double())
                for m, c in (([0.5, -1.0, 0.2], 1.5), ([1.0, 2.0, -0.3], 0.3)))


def sampled(path, space, scale, nets=(NARROW, WIDE), plus=None, count=9):
    """A first-order deterministic run in float64 under CFG; with `plus` a run of CFG++ as it is written, no CFG."""
    sigmas, alphas = levels(path, count)
    x, states = tensors(7, 1, 5, 3)[0].double(), [{}]
    for i in range(count):
        step = Step(i, sigmas, alphas, sigmas[i], space, x, Streams([]))
        (a, s), (a_next, s_next) = (step.alpha, step.sigma), step.next
        p = {name: net.predict(x, a, s, space) for name, net in zip((COND, UNCOND), nets)}
        pred = combine((emag.CFG(scale),), p[COND], p, step, states)
        if plus is not None:
            pred = p[UNCOND] + plus * (p[COND] - p[UNCOND])
        clean = convert(pred, x, a, s, space, "x0")
        noise = convert(pred if plus is None else p[UNCOND], x, a, s, space, "epsilon")
        x = a_next * clean + s_next * noise
    return x


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path] if (path, space)
                                             != ("flow", "epsilon")])
def test_cfg_plus_plus_is_cfg_at_its_scale(path, space, lam):
    """Whole runs; that on a flow starts at pure noise, where epsilon networks say nothing."""
    close(sampled(path, space, CFGpp(lam)), sampled(path, space, 1.0, plus=lam), **exact)


def test_cfg_plus_plus_on_a_flow_as_written_for_flows():
    s, after, (x, cond, uncond) = 0.7, 0.55, (t.double() for t in tensors(8, 3))
    step = at_step("flow", "flow", x, index=0, sigmas=(s, after), alphas=(1 - s, 1 - after))
    v = uncond + 0.6 * (cond - uncond)
    written_out = (1 - after) * (x - s * v) + after * (x + (1 - s) * uncond)
    euler = x + (after - s) * guided(CFGpp(0.6), {COND: cond, UNCOND: uncond}, step)
    close(euler, written_out, **exact)
    assert CFGpp(0.6).known(step) == pytest.approx(0.6 * s * (1 - after) / (s - after))


def test_cfg_plus_plus_ends_at_lambda_and_starts_finite():
    (first, *_, last), noise = grid(10), grid(10)[0]
    assert CFGpp(0.6).known(last) == 0.6
    assert noise.alpha == 0 and CFGpp(0.6).known(first) == pytest.approx(0.6)
    still = replace(last, sigmas=(0.5, 0.5), alphas=(0.5, 0.5), index=0)
    assert renoised(still) == 1.0


@pytest.mark.parametrize("scale", [CFGpp(0.0), CFGpp(0.6)])
def test_cfg_plus_plus_limits(scale):
    """lambda 0 is the unconditional sampler; equal branches give the base sampler bit for bit."""
    if scale.scale == 0:
        assert torch.equal(sampled("vp", "epsilon", scale), sampled("vp", "epsilon", 0.0))
    assert torch.equal(sampled("vp", "epsilon", scale, nets=(WIDE, WIDE)), sampled("vp", "epsilon", 1.0, nets=(WIDE, WIDE)))


def test_cfg_plus_plus_undoes_its_inversion():
    """With epsilons held fixed: up by the published inversion, down by a DDIM step under CFG at our scale."""
    z, cond, uncond = (t.double() for t in tensors(4, 3))
    (a, s), (a_low, s_low) = (0.6, 0.8), (0.8, 0.6)
    g = uncond + 0.6 * (cond - uncond)
    up = a * (z - s_low * uncond) / a_low + s * g
    step = at_step("vp", "epsilon", up, index=0, sigmas=(s, s_low), alphas=(a, a_low))
    pred = guided(CFGpp(0.6), {COND: cond, UNCOND: uncond}, step)
    close(a_low * (up - s * pred) / a + s_low * pred, z, **exact)


# annealing (M18)


def test_annealing_head_of_zeros_is_the_conditional_noise_with_cfg_plus_plus(tmp_path):
    path = written(head(size=0.0), tmp_path)
    p, step = branches(), at()
    for bias in (1.0, 2.5):
        close(guided(Annealing(0.4, path, bias=bias), p, step), guided(CFGpp(bias), p, step), **exact)
    close(guided(Annealing(0.4, path, bias=2.5, renoise=False), p, step), guided(2.5, p, step), **exact)


def test_annealing_features():
    zero = features(0.0, torch.zeros(1), 0.0)
    assert zero.tolist() == [[0, 1, 1, 1] * 3]
    found = features(0.5, torch.tensor([2.0]), 0.4).tolist()[0]
    assert found == pytest.approx([f for z in (0.5, 2.0, 0.4) for f in (z, math.cos(z), math.cos(2 * z), math.cos(3 * z))])


@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
def test_annealing_is_its_formula_in_every_space(path, space, tmp_path):
    """Against torch's own layers, on the norm of epsilon differences."""
    layers = [layer for into, out in pairwise(SIZES) for layer in (torch.nn.Linear(into, out), torch.nn.ReLU())]
    net = torch.nn.Sequential(*layers[:-1])
    net.load_state_dict({name.removeprefix("combined_head."): t for name, t in head().items()})
    step = at(path, space)
    apart = norms(branches()[COND] - branches()[UNCOND]) * abs(difference_scale(step.alpha, step.sigma, "x0", "epsilon"))
    inputs = features(step.time, apart / 5, 0.7).float()
    expected = (0.5 + 2 * net(inputs).squeeze(1)).double() * renoised(step)
    p = branches_in(space, step, "x0", branches())
    schedule = Annealing(0.7, written(head(), tmp_path), factor=2.0, bias=0.5)
    found = schedule.at(p, step, {})
    close(found, expected, atol=1e-5, rtol=1e-5)
    flipped = {name: t.flip(0) for name, t in p.items()}
    close(schedule.at(flipped, replace(step, x=step.x.flip(0)), {}), found.flip(0), **exact)
    assert len({round(w, 6) for w in found.tolist()}) == 3


def test_annealing_reads_its_file_once_a_run(tmp_path):
    path, state, p = written(folder=tmp_path), {}, branches()
    schedule = Annealing(0.4, path)
    first = schedule.at(p, at(), state)
    (tmp_path / "head.safetensors").unlink()
    assert torch.equal(schedule.at(p, at(), state), first)
    with pytest.raises(BadValue, match="cannot read"):
        schedule.at(p, at(), {})


ODD = {
    "other names": {"layer.0.weight": torch.zeros(1, 12), "layer.0.bias": torch.zeros(1)},
    "a gap": {f"combined_head.4{name[15:]}" if name.startswith("combined_head.2.") else name: t for name, t in head().items()
              if not name.startswith("combined_head.4")},
    "no bias": {name: t for name, t in head().items() if name != "combined_head.2.bias"},
    "features": head((10, 8, 1)), "outputs": head((12, 8, 2)),
    "a broken chain": {**head(), "combined_head.2.weight": torch.zeros(16, 15)}, "nothing": {"x": torch.zeros(1)},
}


@pytest.mark.parametrize("tensors_of", ODD.values(), ids=ODD)
def test_annealing_refuses_other_files(tensors_of, tmp_path):
    with pytest.raises(BadValue, match="no annealing head"):
        read_head(written(tensors_of, tmp_path))


@pytest.mark.parametrize("sizes", [(12, 1), (12, 8, 8, 8, 8, 1)])
def test_annealing_takes_heads_of_any_depth(sizes, tmp_path):
    layers = read_head(written(head(sizes), tmp_path))
    assert [tuple(weight.shape) for weight, _ in layers] == [(out, into) for into, out in pairwise(sizes)]


def test_annealing_refuses_what_is_no_file_of_tensors(tmp_path):
    (tmp_path / "text").write_text("no tensors")
    for path in (tmp_path / "text", tmp_path / "none", tmp_path):
        with pytest.raises(BadValue, match="cannot read") as error:
            read_head(str(path))
        assert "\n" not in str(error.value)


# feedback (M17)


def nearness(target):
    return lambda x, step: -(x.double() - target.double()).flatten(1).square().sum(1)


def next_of(pred, step):
    """The next sample, written out."""
    at_x = (step.x, step.alpha, step.sigma, step.space)
    clean, noise = (convert(pred, *at_x, target) for target in ("x0", "epsilon"))
    return step.next[0] * clean + step.next[1] * noise


@pytest.mark.parametrize(("path", "space"), [(path, space) for path in SPACES for space in SPACES[path]])
def test_feedback_picks_the_choice_that_leads_closest(path, space):
    step = at(path, space)
    p = branches_in(space, step, "x0", branches())
    ways = {s: next_of(p[UNCOND] + s * (p[COND] - p[UNCOND]), step) for s in (7.5, 1.0, 3.0, 11.0)}
    for s, way in ways.items():
        close(stepped(p[UNCOND] + s * (p[COND] - p[UNCOND]), step), way, **exact)
    target = torch.stack([ways[11.0][0], ways[1.0][1], ways[7.5][2]]) + 0.01
    schedule = Feedback(7.5, (1.0, 3.0, 11.0), nearness(target))
    assert schedule.at(p, step, {}).tolist() == [11.0, 1.0, 7.5]
    weights = torch.tensor([11.0, 1.0, 7.5]).double().view(-1, 1, 1, 1)
    close(guided(schedule, p, step), p[UNCOND] + weights * (p[COND] - p[UNCOND]), **exact)
    same = Feedback(7.5, (1.0, 3.0, 11.0), lambda x, step: nearness(target)(x, step).div(1e4).exp().sub(3))
    assert same.at(p, step, {}).tolist() == [11.0, 1.0, 7.5]


def test_feedback_with_one_choice_is_cfg():
    p, step = branches(), at()
    for schedule in (Feedback(4.0, ()), Feedback(4.0, (4.0,), nearness(p[COND]))):
        assert torch.equal(guided(schedule, p, step), guided(4.0, p, step))
    assert Feedback(1.0, ()).known(step) == 1


def test_feedback_scores_single_precision_samples_of_the_next_level_once_each():
    seen = []

    def score(x, step):
        seen.append((x.dtype, tuple(x.shape), step.next))
        return torch.zeros(len(x))

    step = at()
    picks = Feedback(7.5, (1.0, 7.5, 3.0, 1.0), score).at(branches(), step, {})
    assert picks.tolist() == [7.5] * 3  # ties go to the scale itself
    assert seen == [(torch.float32, (3, 4, 6, 6), step.next)] * 3


def test_feedback_never_picks_what_has_no_score():
    assert Feedback(2.0, (3.0,), lambda x, step: torch.full((3,), math.nan)).at(branches(), at(), {}).tolist() == [2.0] * 3
    step = at()
    calls = iter((math.nan, 5.0))
    schedule = Feedback(2.0, (3.0,), lambda x, step: torch.full((3,), next(calls)))
    assert schedule.at(branches(), step, {}).tolist() == [3.0] * 3


def test_feedback_mixes_several_scores_by_how_much_they_rise():
    """Scores given by hand: two steps, two choices, two evaluators, one sample."""
    table = iter([1.0, 4.0, 2.0, 2.0,  # step 0: choices (1, 4) and (2, 2); sums 5 and 4: the first
                  1.1, 8.0, 3.0, 4.4])  # step 1: 1.1 (0.1) + 8 (1) = 8.11 and 3 (2) + 4.4 (0.1) = 6.44: the first
    rest = iter([1.0, 4.0, 2.0, 2.0, 1.1, 5.0, 3.0, 4.4])  # 1.1 (0.1) + 5 (0.25) = 1.36 and 6.44: the second
    for scores, expected in ((table, [2.0, 2.0]), (rest, [2.0, 3.0])):
        state, p = {}, branches(rows=1)
        schedule = Feedback(2.0, (3.0,), (lambda x, step, s=scores: torch.tensor([next(s)]),) * 2)
        assert [float(schedule.at(p, at(rows=1, index=i), state)) for i in (4, 5)] == expected


def test_feedback_does_not_mix_rows():
    """Two evaluators, so that a score before is kept; every row alone gets what it gets in a batch."""
    scores = (lambda x, step: 5 + x.flatten(1).mean(1), lambda x, step: 1 / (1 + x.flatten(1).norm(dim=1)))
    schedule, picks = Feedback(2.0, (1.0, 3.0, 9.0), scores), []
    for rows in (slice(0, 3), slice(0, 1), slice(1, 2), slice(2, 3)):
        state, found = {}, []
        for i in range(4):
            p = {name: t[rows] for name, t in branches(10 + i).items()}
            found.append(schedule.at(p, replace(at(index=i), x=at().x[rows]), state))
        picks.append(torch.stack(found, 1))
    assert torch.equal(picks[0], torch.cat(picks[1:])) and len(picks[0].unique()) > 1


def test_feedback_in_a_pipeline():
    pipe = CASES["sd3"].pipe()
    plain = CASES["sd3"].run(pipe, guidance_scale=3.0)
    calls = []

    def low(x, step):
        calls.append(step.index)
        return -x.flatten(1).norm(dim=1)

    with emag.guide(pipe, emag.CFG(Feedback(3.0, (3.0,), low))):
        assert torch.allclose(CASES["sd3"].run(pipe), plain, atol=1e-4) and not calls
    with emag.guide(pipe, emag.CFG(Feedback(3.0, (1.0,), low))) as run:
        made = CASES["sd3"].run(pipe)
    assert calls == [i for i in range(8) for _ in range(2)] and not torch.allclose(made, plain, atol=1e-3)
    assert run.record["rules"] == [] and "rules" in run.record["unrecorded"]


def test_a_function_cannot_be_written_into_a_recipe():
    with pytest.raises(BadValue, match="function"):
        recipe.to_data([emag.CFG(Feedback(3.0, (1.0,), nearness(torch.zeros(1))))])


# all


@pytest.mark.parametrize("schedule", [BetaCFG(), MAMBOG(), Annealing(0.4, written()), Feedback(2.0, (3.0,), nearness)],
                         ids=lambda schedule: schedule.name)
def test_measuring_without_an_unconditional_prediction_is_an_error(schedule):
    with pytest.raises(BadValue, match="unconditional"):
        schedule.at({COND: branches()[COND]}, at(), {})


@pytest.mark.parametrize("bad", [
    lambda: Curve(3.0, "bump"), lambda: Curve(3.0, power=0.0), lambda: Curve(3.0, power=math.nan),
    lambda: Curve(3.0, floor=-1.0), lambda: Curve(3.0, floor=math.inf), lambda: Curve(3.0, convention="x"),
    lambda: Curve(-1.0), lambda: Curve(math.nan), lambda: Rectified(3.0, -1.0), lambda: Rectified(3.0, math.nan),
    lambda: BetaCFG(3.0, 0.5), lambda: BetaCFG(3.0, 2.0, math.inf), lambda: BetaCFG(3.0, math.nan),
    lambda: BetaCFG(3.0, gamma=-1.0), lambda: BetaCFG(math.inf), lambda: MAMBOG(3.0, -1.0), lambda: MAMBOG(3.0, math.nan),
    lambda: CFGpp(-0.1), lambda: CFGpp(math.nan), lambda: Annealing(0.4), lambda: Annealing(0.4, "x", bias=math.nan),
    lambda: Annealing(math.inf, "x"), lambda: Feedback(3.0), lambda: Feedback(3.0, (-1.0,), nearness),
    lambda: Feedback(3.0, (math.nan,), nearness), lambda: Interval(3.0, 2.0, 1.0), lambda: Interval(3.0, unit="time")])
def test_bad_values(bad):
    with pytest.raises(BadValue):
        bad()


def test_every_schedule_says_what_it_is():
    for name, schedule in {**SCHEDULES, "feedback": Feedback}.items():
        assert schedule.__doc__ and schedule.paper and schedule.equation and schedule.name == name


@pytest.mark.parametrize("text", ["curve:3:shape=cosine:falling=true", "cfg++:0.6", "beta-cfg:7.5:b=3", "mambo-g",
                                  "rectified:4.5"])
def test_schedules_have_a_short_form(text):
    rule = recipe.parse(f"cfg={text}")
    assert rule.scale.name == text.partition(":")[0] and recipe.from_data(recipe.to_data([rule])) == (rule,)
