"""Methods that cost no evaluation against their formulas, written out sample by sample: options and constants that no known
value of test_free_methods.py holds."""

import math

import pytest
import torch

import emag
from emag.core import COND, UNCOND
from emag.maths.predictions import convert
from test_free_methods import guided, row, step_at, tensors

close = torch.testing.assert_close
W = 4.0


def three(seed, *shape):
    return tensors(seed, 3, *(shape or (2, 3, 4, 4)))


def sample_by_sample(formula, *batches):
    return torch.stack([formula(*one) for one in zip(*batches, strict=True)])


def cosine(a, b):
    return (a * b).sum() / (a.norm() * b.norm())


def test_mahiro_looks_at_roots_of_the_scaled_and_the_mean():
    cond, null, _ = three(1)

    def plain(c, u):
        g, leap = u + W * (c - u), W * c
        a, b = (x.sign() * x.abs() ** 0.5 for x in (W * u, (leap + g) / 2))
        alike = torch.stack([cosine(a[:, i, j], b[:, i, j]) for i in range(4) for j in range(4)]).mean()
        q = 2 * (1 + alike)
        return (q * g + (4 - q) * leap) / 4

    close(guided(emag.MaHiRo(W), cond, null), sample_by_sample(plain, cond, null))


def test_tonemap_divides_by_five_deviations_above_the_mean():
    cond, null, _ = three(2)

    def plain(c, u):
        m = ((c - u) ** 2).sum(0).sqrt()
        top = 1.5 * (m.mean() + 5 * m.std())
        return u + W * (c - u) / (1 + m / top)

    close(guided(emag.Tonemap(W, 1.5), cond, null), sample_by_sample(plain, cond, null))


@pytest.mark.parametrize(("low", "high"), [(0.45, 0.55), (0.2, 0.9)])
def test_ep_cfg_takes_the_energy_between_its_percentiles(low, high):
    cond, null, _ = three(3)

    def energy(x):
        sizes = x.flatten().abs().sort().values
        return (sizes[int(low * 47):int(high * 47) + 1] ** 2).sum()

    def plain(c, u):
        g = u + W * (c - u)
        return g * (energy(c) / energy(g)).sqrt()

    close(guided((emag.CFG(W), emag.EPCFG(low, high)), cond, null), sample_by_sample(plain, cond, null))


@pytest.mark.parametrize("gamma", [0.5, 4.0])  # above the least scale, and below it
def test_adamag_falls_with_the_noise_down_to_its_least(gamma):
    cond, null, x = three(4)
    step = step_at(x, space="flow")

    def plain(c, u, x):
        noise = convert(c, x, step.alpha, step.sigma, "flow", "epsilon")
        along = ((c - u) * noise).sum() / noise.square().sum() * noise
        return u + max(3.0, W * step.sigma**gamma) * (c - u - 0.7 * along)

    made = guided(emag.AdaMaG(W, 0.3, gamma, 3.0), cond, null, x, space="flow")
    close(made, sample_by_sample(plain, cond, null, x))
    assert (W * step.sigma**0.5 > 3.0) and (W * step.sigma**4.0 < 3.0)


def test_adg_turns_no_further_than_its_limit():
    made = guided(emag.ADG(9.0, limit=60.0), row(1, 1), row(1, 0))  # 45 degrees apart, so at 8 times that beyond
    f = math.radians(60)
    close(made, math.cos(f) * row(1, 1) + math.sin(f) / math.sin(math.pi / 4) * row(0, 1))


@pytest.mark.parametrize("full", [False, True])
def test_skimmed_may_skim_the_null_to_nothing(full):
    cond, null = row(2), row(3)  # of the first skim the unconditional one is burning: it is larger, and of one sign
    g = 2 + W * (3 - 2)
    least = 0.0 if full else 2.5
    moved = 3 - (W - least) * (3 - 2) / W  # so that 2 + W (u' - 2) is 2 + least (3 - 2)
    assert g > 0 and 2 + W * (moved - 2) == pytest.approx(2 + least)
    second = 2 - moved  # of the second one the conditional prediction, at W - 1
    burning = second > 0 and moved + (W - 1) * second > 0
    clean = 2 - (W - 1 - 2.5) * second / (W - 1) if burning else 2
    close(guided(emag.SkimmedCFG(W, 2.5, full), cond, null), row(moved + W * (clean - moved)))


def test_momentum_normalised_subtracts_an_average_as_long_as_the_prediction():
    preds, states = three(5), [{}]
    rule = emag.Momentum(0.5, 0.6, start=1.0, stop=0.0, normalise=True)
    made = [guided(rule, p, 0 * p, index=i, states=states, space="flow") for i, p in enumerate(preds)]

    def plain(first, second, third):
        mean = 0.6 * first + 0.4 * second
        return third + 0.5 * (third - mean * third.norm() / mean.norm())

    close(made[2], sample_by_sample(plain, *preds))


def test_higs_adds_nothing_outside_its_times():
    preds = three(6)
    rule = emag.HiGS(2.0, start=0.7, stop=0.4)
    states = [{}]
    for i, p in enumerate(preds):  # 0.9 is above, 0.6 inside, 0.3 below
        made = guided(rule, p, 0 * p, index=i, states=states)
        assert torch.equal(made, p) == (i != 1)
    assert rule.weight(0.4) == 0 and rule.weight(0.7) == 2 and rule.weight(0.7001) == 0


@pytest.mark.parametrize("soft", [False, True])
def test_smc_relative_is_a_share_of_the_mean_gap(soft):
    cond, null, _ = three(7)

    def plain(c, u):
        e = c - u
        gain = 0.8 * e.abs().mean()
        size = torch.minimum(gain.expand_as(e), e.abs()) if soft else gain
        return u + W * (e - size * e.sign())  # at the first step all of s is lambda e

    close(guided(emag.SMCCFG(W, 5.0, 0.8, soft=soft, relative=True), cond, null, space="flow"),
          sample_by_sample(plain, cond, null))


def test_oec_acts_below_its_threshold_alone():
    first, second, _ = three(8)
    change = torch.stack([second[0], second[1]])
    nulls = torch.stack([0.2 * first[0], second[1] + 0.1 * first[1]])  # the changes of the second sample are alike
    state = {}
    rule = emag.OEC(0.9)
    rule.new_null({COND: 0 * change, UNCOND: 0 * nulls}, step_at(change, 0, space="flow"), state)
    made = rule.new_null({COND: change, UNCOND: nulls}, step_at(change, 1, space="flow"), state)
    q = [cosine(a, b) for a, b in zip(change, nulls, strict=True)]
    assert q[0] < 0.9 < q[1]
    close(made[0], nulls[0] + (1 - q[0]) * (change[0] * nulls[0]).sum() / change[0].square().sum() * change[0])
    assert torch.equal(made[1], nulls[1])


def test_c_tag_adaptive_keeps_the_sign():
    """T points away from p: the push is along -T, as long as D."""
    made = guided(emag.CTAG(2.0, 0.5, True), row(3, 1), row(0, 5), x=row(1, 0))  # D = (3, -4), T = (0, -4), <p, T> < 0
    close(made, row(6, 5 + 2 * -4) + 0.5 * -1 * 5 * row(0, -1))


@pytest.mark.parametrize("path", ["vp", "flow"])
def test_vags_and_power_law_in_their_units(path):
    cond, null, x = three(9)
    space = "flow" if path == "flow" else "epsilon"
    step = step_at(x, path=path, space=space)
    time = step.sigma / (step.alpha + step.sigma)
    found = emag.VAGS(W, 0.7).at({COND: cond, UNCOND: null}, step, {})
    close(found, torch.stack([W * torch.exp(0.7 * (1 - 2 * time) * cosine(c, u)) for c, u in zip(cond, null, strict=True)]))

    def score(p, x):
        return -convert(p, x, step.alpha, step.sigma, space, "epsilon") / step.sigma

    scores = torch.stack([score(cond, x), score(null, x)])
    gap = (scores[0] - scores[1]).flatten(1)
    for mean, size in ((False, gap.norm(dim=1)), (True, gap.square().mean(1).sqrt())):
        made = emag.PowerLaw(W, 0.9, mean).at({COND: cond, UNCOND: null}, step, {})
        close(made, 1 + (W - 1) * size**0.9)


def test_perp_neg_of_a_prompt_that_says_nothing_takes_the_negative_away():
    """P = 0 has no direction to spare: finite, in half precision too."""
    rule = emag.PerpNeg(3.0, "prompt:x", 0.5)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        null, negative = row(1, 2).to(dtype), row(2, 0).to(dtype)
        made = rule.apply(null, {COND: null, UNCOND: null, rule.weak[0]: negative}, step_at(row(0, 0)), {})
        close(made, null - 3 * 0.5 * (negative - null))


def test_gag_with_nothing_to_sharpen_is_attention():
    from emag.methods.attention.gag import BoundedSparse, bounded

    dense = three(10)[0]
    assert torch.equal(bounded(dense, 0 * dense, BoundedSparse((0,), False, 0.7, 0.5, 15.0, 1.5)), dense)
