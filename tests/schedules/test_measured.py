"""Schedules that measure: beta-CFG, MAMBO-G, CFG++, annealing."""

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
from emag.schedules import (
    MAMBOG,
    Annealing,
    BetaCFG,
    CFGpp,
)
from emag.schedules.annealing import features, read_head
from emag.schedules.normed import beta_density
from emag.schedules.renoise import renoised
from exact import Gaussian
from heads import SIZES, head, written
from reference import SPACES, at_step, branches_in, tensors
from scheduled import FINE, at, branches, close, exact, grid, guided, levels, values


def norms(x):
    return x.flatten(1).norm(dim=1)


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
