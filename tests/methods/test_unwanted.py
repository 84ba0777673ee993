"""Prompts of what is not wanted, with a weight that the run finds: SLD, DNG, contrastive CFG."""

from types import SimpleNamespace

import pytest
import torch

import emag
from emag.core import COND, UNCOND, combine
from emag.errors import BadValue, Unsupported
from emag.maths.predictions import convert
from reference import at_step
from test_free_methods import close, guided, row, step_at, tensors

COUNT = 6


def course(rule, triples, space="epsilon", path="vp"):
    """What `rule` makes of a run of (p, u, n), one step each."""
    state, found = {}, []
    for index, (cond, uncond, negative) in enumerate(triples):
        step = step_at(torch.zeros_like(cond), index, tuple(0.9 - 0.1 * i for i in range(COUNT)), path, space)
        branches = {COND: cond, UNCOND: uncond, **dict.fromkeys(rule.branches(step), negative)}
        found.append(combine([rule], cond, branches, step, [state]))
    return found


def triples(seed=5):
    return [tensors(seed + i, 3, 2, 3, 4, 4) for i in range(COUNT)]


# safe latent diffusion


@pytest.mark.parametrize(("warm_up", "strength", "threshold", "momentum", "decay"), [
    (0, 2.0, 0.0, 0.0, 0.0), (2, 0.8, 0.5, 0.3, 0.4), (1, 5.0, -0.2, 0.5, 0.7)])
def test_sld_is_the_pipeline_of_diffusers(warm_up, strength, threshold, momentum, decay):
    place = "diffusers.pipelines.deprecated.stable_diffusion_safe.pipeline_stable_diffusion_safe"
    published = pytest.importorskip(place).StableDiffusionPipelineSafe.perform_safety_guidance
    rule, mean = emag.SLD(3.0, "prompt:x", strength, threshold, warm_up, momentum, decay), None
    for index, (made, (p, u, n)) in enumerate(zip(course(rule, triples()), triples(), strict=True)):
        push, mean = published(SimpleNamespace(), True, mean, p - u, (p, u, n), index, strength, warm_up, threshold,
                               momentum, decay)
        close(made, u + 3.0 * push)


def test_sld_by_hand_moves_the_entries_near_the_concept():
    """p - n is -0.1, -5 and 2: half moved, wholly moved, left alone."""
    p, u, n = row(0.9, 1, 4), row(0, 0, 0), row(1, 6, 2)
    made = course(emag.SLD(2.0, "prompt:x", 5.0, 0.0, 0, 0.0), [(p, u, n)])[0]
    close(made, 2 * (p - row(0.5, 6, 0)))


def test_sld_without_strength_is_cfg_and_without_momentum_begins_as_cfg():
    for p, u, n in triples():
        wanted = guided(emag.CFG(3.0), p, u)
        close(course(emag.SLD(3.0, "prompt:x", 0.0), [(p, u, n)])[0], wanted)
    late = emag.SLD(3.0, "prompt:x", warm_up=2, momentum=0.0)
    made, plain = course(late, triples()), [guided(emag.CFG(3.0), p, u) for p, u, _ in triples()]
    near = [torch.allclose(one, other) for one, other in zip(made, plain, strict=True)]
    assert near == [True, True, False, False, False, False]
    step = step_at(row(0))
    assert late.branches(step) == () and len(emag.SLD(3.0, "prompt:x").branches(step)) == 1  # V grows while it waits


def test_sld_updates_its_mean_once_a_level():
    rule, step, states = emag.SLD(2.0, "prompt:x", 1.0, warm_up=0), step_at(row(0, 0)), {}
    branches = {COND: row(1, 2), UNCOND: row(0, 0), rule.weak[0]: row(3, 4)}
    first, again = (rule.apply(row(1, 2), branches, step, states) for _ in range(2))
    assert torch.equal(first, again)


# dynamic negative guidance

ALPHAS = (0.2, 0.45, 0.7, 0.9, 0.99)  # of a path that preserves variance


def published(xs, conds, negatives, w, prior, temperature, offset, least, most):
    """The authors' posterior and prediction of each step, by their names, for epsilon predictions."""
    p, found = torch.full((len(xs[0]),), prior, dtype=torch.float64), []
    for i, (x, cond, negative) in enumerate(zip(xs, conds, negatives, strict=True)):
        if i:
            a_bar, a_bar_next = ALPHAS[i - 1] ** 2, ALPHAS[i] ** 2
            a = a_bar / a_bar_next
            variance = (1 - a_bar_next) / (1 - a_bar) * (1 - a)
            mean, bad = ((xs[i - 1] - (1 - a) / (1 - a_bar) ** 0.5 * noise) / a**0.5
                         for noise in (conds[i - 1], negatives[i - 1]))
            diff = (x - bad).flatten(1).square().sum(1) - (x - mean).flatten(1).square().sum(1)
            p = (p * torch.exp((offset - temperature * diff) / (2 * variance))).clamp(least, most)
        found.append(cond - ((w - 1) * p / (1 - p)).view(-1, 1, 1, 1) * (negative - cond))
    return found


def followed(rule, xs, conds, negatives, space="epsilon", alphas=ALPHAS):
    """What `rule` makes of a run through xs, whose predictions are given as epsilon and told in `space`."""
    state, found = {}, []
    sigmas = tuple((1 - a**2) ** 0.5 for a in alphas)
    for i, x in enumerate(xs):
        step = at_step("vp", space, x, index=i, sigmas=sigmas, alphas=alphas)
        there = {name: convert(pred, x, step.alpha, step.sigma, "epsilon", space)
                 for name, pred in ((COND, conds[i]), (rule.perturbation, negatives[i]))}
        made = rule.apply(there[COND], there, step, state)
        assert torch.equal(rule.apply(there[COND], there, step, state), made)  # a level that comes twice changes nothing
        found.append(convert(made, x, step.alpha, step.sigma, space, "epsilon"))
    return found


@pytest.mark.parametrize("space", ["epsilon", "v", "x0"])
def test_dng_is_the_authors_loop(space):
    xs, conds, negatives = ([0.3 * x for x in tensors(seed, 5, 3, 2, 4, 4)] for seed in (1, 2, 3))
    for settings in ((0.4, 1.0, 0.0, 0.05, 0.6), (0.1, 0.02, 0.02, 1e-6, 0.8)):
        made = followed(emag.DNG(3.0, "prompt:x", *settings), xs, conds, negatives, space)
        wanted = published(xs, conds, negatives, 3.0, *settings)
        for one, other in zip(made, wanted, strict=True):
            close(one, other, atol=1e-9, rtol=1e-9)
    assert len({round(float((one - c)[0].norm() / (c - n)[0].norm()), 6)
                for one, c, n in zip(made, conds, negatives, strict=True)}) > 2


def test_dng_pushes_where_the_run_looks_like_the_negative_prompt():
    """Samples that go where n leads reach the highest P, those that go where p leads the lowest, each by itself."""
    (x,), (cond, negative) = tensors(4, 1, 2, 2, 4, 4), tensors(5, 2, 2, 2, 4, 4)
    xs = [x]
    for i in range(len(ALPHAS) - 1):
        lead = torch.stack([negative[0], cond[1]])
        clean = (xs[-1] - (1 - ALPHAS[i] ** 2) ** 0.5 * lead) / ALPHAS[i]
        xs.append(ALPHAS[i + 1] * clean + (1 - ALPHAS[i + 1] ** 2) ** 0.5 * lead)
    rule = emag.DNG(2.0, "prompt:x", 0.1, 1.0, 0.0, 1e-3, 0.75)
    shares = (followed(rule, xs, [cond] * 5, [negative] * 5)[-1] - cond) / (cond - negative)
    close(shares[0], torch.full_like(shares[0], 3.0))  # 0.75 / 0.25
    close(shares[1], torch.full_like(shares[1], 1e-3 / (1 - 1e-3)))


def test_dng_that_is_told_nothing_is_a_negative_prompt_of_constant_weight():
    xs, conds, negatives = (tensors(seed, 5, 2, 2, 4, 4) for seed in (1, 2, 3))
    made = followed(emag.DNG(5.0, "prompt:x", 0.2, 0.0, 0.0), xs, conds, negatives)
    for one, cond, negative in zip(made, conds, negatives, strict=True):
        close(one, cond + 4 * 0.25 * (cond - negative))
    with pytest.raises(Unsupported):
        emag.DNG(2.0).fits_tokens(True)


# contrastive CFG


@pytest.mark.parametrize("plain", [False, True])
def test_contrastive_cfg_is_the_authors_step(plain):
    for p, u, n in triples():
        square = lambda d: 0.02 * d.square().sum((1, 2, 3), keepdim=True)  # noqa: E731
        wanted = u + 3 * (p - u) * (1 if plain else 2 / (1 + torch.exp(-square(p - u))))
        far = torch.exp(-square(n - u))
        wanted = wanted - 3 * (n - u) * 2 * far / (1 + far)
        close(course(emag.ContrastiveCFG(3.0, "prompt:x", 0.02, plain=plain), [(p, u, n)])[0], wanted)


def test_contrastive_cfg_runs_from_plain_negation_to_none():
    """tau 0 weighs both with 1; a large one the prompt with 2 and the negative with 0, however far it is."""
    for p, u, n in triples():
        close(course(emag.ContrastiveCFG(3.0, "prompt:x", 0.0, 0.7), [(p, u, n)])[0], u + 3 * (p - u - 0.7 * (n - u)))
        close(course(emag.ContrastiveCFG(3.0, "prompt:x", 1e9), [(p, u, n)])[0], guided(emag.CFG(6.0), p, u))
        plain = emag.ContrastiveCFG(3.0, "prompt:x", 1e9, plain=True)
        close(course(plain, [(p, u, n)])[0], guided(emag.CFG(3.0), p, u))


def test_contrastive_cfg_pushes_less_the_farther_the_negative_is():
    rule = emag.ContrastiveCFG(1.0, "prompt:x", 0.5, plain=True)
    pushes = [-float(course(rule, [(row(0, 0), row(0, 0), row(d, 0))])[0][0, 0]) / d for d in (0.01, 1.0, 2.0, 4.0)]
    assert pushes == sorted(pushes, reverse=True) and pushes[0] == pytest.approx(1, abs=1e-4) and 0 < pushes[3] < 1e-3
    assert emag.ContrastiveCFG(0.0, "prompt:x").branches(step_at(row(0))) == ()


@pytest.mark.parametrize("make", [
    lambda: emag.ContrastiveCFG(2.0, tau=-1.0), lambda: emag.ContrastiveCFG(2.0, "cond"),
    lambda: emag.ContrastiveCFG(2.0, against=-1.0), lambda: emag.DNG(2.0, prior=0.0),
    lambda: emag.DNG(2.0, most=1.0), lambda: emag.DNG(2.0, prior=0.9),
    lambda: emag.DNG(2.0, temperature=-1.0), lambda: emag.DNG(2.0, every=2), lambda: emag.DNG(2.0, "cond"),
    lambda: emag.SLD(-1.0), lambda: emag.SLD(2.0, "uncond"), lambda: emag.SLD(2.0, strength=-1.0),
    lambda: emag.SLD(2.0, warm_up=-1), lambda: emag.SLD(2.0, decay=1.0)])
def test_odd_settings_are_refused(make):
    with pytest.raises(BadValue, match=r"sld|dng|contrastive"):
        make()


@pytest.mark.parametrize("rule", [emag.SLD(3.0, "prompt:ship", warm_up=4), emag.SMCCFG(3.0, warm_up=4)])
def test_a_run_that_ends_within_the_warm_up_is_refused(rule):
    pipe = emag.load("tiny")
    with pytest.raises(BadValue, match="behind warm_up=4 steps, and the run has 3"), emag.guide(pipe, rule):
        pipe("a photo of a frog", num_inference_steps=3)
