"""Prompts of what is not wanted, with a weight that the run finds: SLD."""

from types import SimpleNamespace

import pytest
import torch

import emag
from emag.core import COND, UNCOND, combine
from emag.errors import BadValue
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
        push, mean = published(SimpleNamespace(), True, mean, p - u, (p, u, n), index, strength, warm_up, threshold, momentum,
                               decay)
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


@pytest.mark.parametrize("make", [
    lambda: emag.SLD(-1.0), lambda: emag.SLD(2.0, "uncond"), lambda: emag.SLD(2.0, strength=-1.0),
    lambda: emag.SLD(2.0, warm_up=-1), lambda: emag.SLD(2.0, decay=1.0)])
def test_odd_settings_are_refused(make):
    with pytest.raises(BadValue, match="sld"):
        make()
