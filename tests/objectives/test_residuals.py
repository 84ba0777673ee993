"""Residuals of score distillation: the table's coefficients, identities between rows, closed forms on Gaussians, float64."""

import math

import pytest
import torch

import emag
from emag.core import Step
from emag.errors import BadValue
from emag.maths.predictions import convert
from emag.maths.streams import Streams
from emag.objectives import (
    RESIDUALS,
    WEIGHTS,
    as_loss,
    guided_once,
    guided_residual,
    score_residual,
    sid_branches,
    sid_loss,
    variational_loss,
)
from tables import random

close = torch.testing.assert_close
ALPHA, SIGMA = 0.8, 0.6
SHAPE = 2, 3, 4, 4
X, SOURCE = random(0, *SHAPE), random(1, *SHAPE)
KNOBS = {"csd-negatives": {"done": 0.25}, "nfsd": {"time": 0.5}, "ssd": {"time": 0.5}, "ssd-edit": {"time": 0.5},
         "dsd": {"classifier": 3.0, "variational": 1.5}}
# the coefficients of the table of the sources: cond, null, negative, noise, adapted, other, source_cond, source_null
TABLE = {
    "sds": (100, -99, 0, -1, 0, 0, 0, 0), "sds-additive": (100, -99, 0, -1, 0, 0, 0, 0),
    "vsd": (7.5, -6.5, 0, 0, -1, 0, 0, 0), "csd": (1, -1, 0, 0, 0, 0, 0, 0),
    "csd-negatives": (1, -0.75, -0.25, 0, 0, 0, 0, 0), "nfsd": (7.5, -6.5, -1, 0, 0, 0, 0, 0),
    "ssd": (1, -1, 0, 0, 0, 0, 0, 0), "asd": (7.5, -6.5, 0, 0, -1, 0, 0, 0), "dsd": (4.5, -3, 0, 0, -1.5, 0, 0, 0),
    "self-distillation": (100, -99, 0, 0, 0, -1, 0, 0), "ssd-edit": (9.25, -5.5, 0, 0, 0, -2.75, 0, -1),
    "dds": (7.5, -6.5, 0, 0, 0, 0, -7.5, 6.5),
}
NAMES = ("cond", "null", "negative", "noise", "adapted", "other", "source_cond", "source_null")
each = pytest.mark.parametrize("name", RESIDUALS)


def needed(name, **knobs):
    return tuple(RESIDUALS[name].coefficients(**(knobs or KNOBS.get(name, {}))))


def made(name, seed=5, **knobs):
    return {key: random(seed + i, *SHAPE) for i, key in enumerate(needed(name, **knobs))}


def source_of(name):
    return {"source": SOURCE} if any(key.startswith("source") for key in needed(name)) else {}


def test_the_rows_are_those_of_the_sources():
    assert RESIDUALS.keys() == TABLE.keys()
    for name, row in TABLE.items():
        found = RESIDUALS[name].coefficients(**KNOBS.get(name, {}))
        assert [found.get(key, 0) for key in NAMES] == list(row), name


@each
def test_a_residual_is_its_sum(name):
    eps = made(name)
    found = score_residual(name, eps, X, ALPHA, SIGMA, **source_of(name), **KNOBS.get(name, {}))
    by_hand = sum(dict(zip(NAMES, TABLE[name]))[key] * value for key, value in eps.items())
    if name == "ssd-edit":
        by_hand = by_hand + 0.075 * math.exp(0.5) * (X - SOURCE)
    close(found, by_hand)


@each
def test_its_loss_has_it_as_gradient(name):
    z = random(2, *SHAPE).requires_grad_()
    eps = {key: value.requires_grad_() for key, value in made(name).items()}
    r = score_residual(name, eps, X, ALPHA, SIGMA, **source_of(name), **KNOBS.get(name, {}))
    for weight in WEIGHTS.values():
        loss = as_loss(z, weight(ALPHA, SIGMA) * r)
        grad, *others = torch.autograd.grad(loss, (z, *eps.values()), allow_unused=True)
        close(grad, weight(ALPHA, SIGMA) * r / len(z))
        assert others == [None] * len(others)


@each
def test_where_all_agree_nothing_moves(name):
    """All predictions equal, and not the noise: only what holds on to the noise is left."""
    one, noise = random(3, *SHAPE), random(4, *SHAPE)
    eps = {key: noise if key == "noise" else one for key in needed(name)}
    where = {"source": X} if source_of(name) else {}
    r = score_residual(name, eps, X, ALPHA, SIGMA, **where, **KNOBS.get(name, {}))
    close(r, one - noise if name.startswith("sds") else torch.zeros_like(one))
    late = {"cond": one, "null": one}
    close(score_residual("nfsd", late, X, ALPHA, SIGMA, time=0.1), one)  # the pull of the domain, as it is


@each
@pytest.mark.parametrize("space", ["flow", "v", "x0"])
def test_in_every_space_it_is_the_same(name, space):
    sigma = 0.3
    alpha = 1 - sigma if space == "flow" else math.sqrt(1 - sigma**2)
    eps = made(name)
    there = {key: convert(value, SOURCE if key.startswith("source") else X, alpha, sigma, "epsilon", space)
             for key, value in eps.items()}
    at, more = (X, alpha, sigma), {**source_of(name), **KNOBS.get(name, {})}
    close(score_residual(name, there, *at, space, **more), score_residual(name, eps, *at, **more))


@pytest.mark.parametrize("name", ["vsd", "csd", "self-distillation", "sds", "dsd"])
def test_of_a_flow_it_is_1_less_s_times_that_of_velocities(name):
    velocities, s = made(name), 0.3
    found = score_residual(name, velocities, X, 1 - s, s, "flow", **KNOBS.get(name, {}))
    coefficients = RESIDUALS[name].coefficients(**KNOBS.get(name, {}))
    close(found, (1 - s) * sum(factor * velocities[key] for key, factor in coefficients.items()))


def gaussian(x, mean, covariance):
    """epsilon of a Gaussian's exact denoiser at x [batch, 2]."""
    whole = ALPHA**2 * covariance + SIGMA**2 * torch.eye(2, dtype=torch.float64)
    return SIGMA * torch.linalg.solve(whole, (x - ALPHA * mean).T).T


MEAN, WIDE_MEAN = random(6, 2), random(7, 2)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
WIDE = COVARIANCE + torch.eye(2, dtype=torch.float64)


def test_sds_of_a_gaussian_leads_to_its_mean():
    z, noise = random(8, 1, 2), random(9, 16, 2)
    noise = torch.cat([noise, -noise])
    x = ALPHA * z + SIGMA * noise
    cond = gaussian(x, MEAN, COVARIANCE)
    eps = {"cond": cond, "null": random(3, 32, 2), "noise": noise}
    mean = score_residual("sds", eps, x, ALPHA, SIGMA, scale=1.0).mean(0)
    whole = ALPHA**2 * COVARIANCE + SIGMA**2 * torch.eye(2, dtype=torch.float64)
    close(mean, SIGMA * ALPHA * torch.linalg.solve(whole, (z[0] - MEAN)))


def test_csd_is_the_score_of_the_classifier():
    def density(x, mean, covariance):
        whole = ALPHA**2 * covariance + SIGMA**2 * torch.eye(2, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(ALPHA * mean, whole).log_prob(x)

    x = random(8, 5, 2).requires_grad_()
    log_ratio = density(x, MEAN, COVARIANCE) - density(x, WIDE_MEAN, WIDE)
    r = score_residual("csd", {"cond": gaussian(x, MEAN, COVARIANCE), "null": gaussian(x, WIDE_MEAN, WIDE)}, x, ALPHA, SIGMA)
    close(r, -SIGMA * torch.autograd.grad(log_ratio.sum(), x)[0])


def test_rows_that_are_others_in_disguise():
    eps = made("sds")
    additive = score_residual("sds-additive", eps, X, ALPHA, SIGMA, scale=6.5)
    close(additive, score_residual("sds", eps, X, ALPHA, SIGMA, scale=7.5))
    eps = {"cond": eps["cond"], "null": eps["null"]}
    csd = score_residual("csd", eps, X, ALPHA, SIGMA)
    close(score_residual("self-distillation", {**eps, "other": eps["cond"]}, X, ALPHA, SIGMA, scale=7.5), 6.5 * csd)
    eps["adapted"] = random(9, *SHAPE)
    vsd = score_residual("vsd", eps, X, ALPHA, SIGMA, scale=7.5)
    close(score_residual("asd", eps, X, ALPHA, SIGMA, scale=7.5), vsd)
    close(score_residual("dsd", eps, X, ALPHA, SIGMA, classifier=6.5, variational=1.0), vsd)


def test_late_stable_score_distillation_is_across_the_noise():
    eps = made("ssd", time=0.05)
    r = score_residual("ssd", eps, X, ALPHA, SIGMA, time=0.05)
    assert (r * eps["noise"]).flatten(1).sum(1).abs().max() < 1e-10
    close(r.flatten(1).norm(dim=1), (eps["cond"] - eps["null"]).flatten(1).norm(dim=1))
    # each sample by itself
    alone = score_residual("ssd", {key: value[:1] for key, value in eps.items()}, X[:1], ALPHA, SIGMA, time=0.05)
    close(r[:1], alone)


@pytest.mark.parametrize("gamma", [0.0, -0.75, 0.5])
def test_the_adapted_network_has_its_optimum(gamma):
    noise, cond = random(1, 50, 3), random(2, 3)
    adapted = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(500):
        loss = variational_loss(adapted.expand(50, 3), noise, cond.expand(50, 3), gamma)
        adapted = (adapted - torch.autograd.grad(loss, adapted)[0]).detach().requires_grad_()
    close(adapted.detach(), (noise.mean(0) + gamma * cond) / (1 + gamma), atol=1e-6, rtol=0)
    # so at -0.75 ASD pushes away from the renders four times as hard as VSD, and back towards the prompt
    renders, null, x = noise.mean(0)[None], random(3, 1, 3), random(4, 1, 3)
    eps = {"cond": cond[None], "null": null, "adapted": (renders + gamma * cond) / (1 + gamma)}
    if gamma == -0.75:
        close(score_residual("asd", eps, x, ALPHA, SIGMA, scale=7.5),
              7.5 * cond[None] - 6.5 * null - 4 * renders + 3 * cond[None])
    with pytest.raises(BadValue, match="above -1"):
        variational_loss(noise, noise, noise, -1.0)


def test_sid_at_alpha_1_is_the_product_of_two_ways():
    real, fake, made_ = random(0, 3, 4), random(1, 3, 4), random(2, 3, 4)
    close(sid_loss(real, fake, made_), ((real - fake) * (fake - made_)).sum(1).mean())
    assert sid_loss(real, real, made_) == 0


def test_the_forms_of_sid_are_scales_of_two_networks():
    """LSG: both guided alike; Zero-CFG: c of the teacher, u of the fake one; Anti-CFG: the fake one pushed from its text."""
    (c, u), (d, v) = pairs = [(random(seed, 3, 4), random(seed + 1, 3, 4)) for seed in (0, 2)]
    for form, scale, real, fake in (("lsg", None, 2 * c - u, 2 * d - v), ("lsg", 1.0, c, d), ("zero-cfg", None, c, v),
                                    ("anti-cfg", -0.5, c, 1.5 * v - 0.5 * d)):
        found = sid_branches(form, *pairs, scale)
        close(found[0], real)
        close(found[1], fake)
    # a fake network that is the teacher is left where it is by LSG, and by Zero-CFG pulled as CSD does
    assert sid_loss(*sid_branches("lsg", pairs[0], pairs[0]), d) == 0
    real, fake = sid_branches("zero-cfg", pairs[0], pairs[0])
    close(real - fake, c - u)
    for form, scale in (("anti-cfg", None), ("anti-cfg", 0.5), ("zero-cfg", 2.0), ("cfg", None)):
        with pytest.raises(BadValue, match="form of SiD"):
            sid_branches(form, *pairs, scale)


def test_a_joint_distribution_is_matched_by_fidelity_and_condition():
    """JDM, arXiv 2503.06652: KL(p(x, c) | q(x, c)) = KL(p(x) | q(x)) + E_p KL(p(c | x) | q(c | x)), the teacher being q.

    As residuals at one x_t: of the conditional predictions (VSD at 1) that of the nulls, and the difference of two CSDs."""
    p, q = (random(seed, 4, 3).flatten().softmax(0).view(4, 3) for seed in range(2))
    (of_p, of_q), joint = (table.sum(1) for table in (p, q)), (p * (p / q).log()).sum()
    given = (p * ((p / of_p[:, None]) / (q / of_q[:, None])).log()).sum()
    close(joint, (of_p * (of_p / of_q).log()).sum() + given, atol=1e-12, rtol=0)
    (c, u), (d, v) = [(random(seed, *SHAPE), random(seed + 1, *SHAPE)) for seed in (0, 2)]
    at = X, ALPHA, SIGMA
    whole = score_residual("vsd", {"cond": c, "null": u, "adapted": d}, *at, scale=1.0)
    fidelity = guided_residual(u, v, *at)
    condition = score_residual("csd", {"cond": c, "null": u}, *at) - score_residual("csd", {"cond": d, "null": v}, *at)
    close(whole, fidelity + condition)


def test_any_guidance_is_a_residual():
    """CFG as a rule gives SDS's and VSD's rows; what remembers is refused."""
    eps = {key: value.float() for key, value in made("sds").items()}
    step = Step(1, (0.8, SIGMA), (0.6, ALPHA), 0.5, "epsilon", X.float(), Streams([b"a", b"b"]))
    guided = guided_once((emag.CFG(7.5),), {emag.COND: eps["cond"], emag.UNCOND: eps["null"]}, step)
    for baseline, name in (("noise", "sds"), ("noise", "vsd")):
        row = dict(eps) if name == "sds" else {**{k: eps[k] for k in ("cond", "null")}, "adapted": eps["noise"]}
        close(guided_residual(guided, eps[baseline], X.float(), ALPHA, SIGMA),
              score_residual(name, row, X.float(), ALPHA, SIGMA, scale=7.5), atol=1e-4, rtol=1e-5)
    with pytest.raises(BadValue, match="momentum remembers"):
        guided_once((emag.CFG(7.5), emag.Momentum()), {emag.COND: eps["cond"], emag.UNCOND: eps["null"]}, step)


def test_predictions_are_those_of_the_row():
    eps = made("csd")
    for name, predictions, more, says in (
            ("cds", eps, {}, "there is no residual"), ("vsd", eps, {}, "needs the predictions adapted"),
            ("csd", {**eps, "noise": X}, {}, "got cond, noise, null"), ("csd", eps, {"source": X}, "no use"),
            ("dds", made("dds"), {}, "noised source")):
        with pytest.raises(BadValue, match=says):
            score_residual(name, predictions, X, ALPHA, SIGMA, **more)
