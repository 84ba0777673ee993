"""Whole runs against plain loops: own attention, whole maps, whole passes, one sample at a time, fp64."""

import pytest
import torch

import emag
from emag.core import COND, UNCOND
from reference import LAYERS, VARIANTS, live_of, scheduler_steps
from reference_loops import BETA, CFG_SCALE, EMAG_SCALE, Clean, Loop, OfficialSD3, Window, close, sd3_window
from tiny import CASES

PUBLISHED = emag.Window.published(250, 50, 50)


class OfficialDiT(Loop):
    """The authors' DiT path: both clean passes feed one average, and the unconditional one's statistic decides."""

    def guided(self, x, t, i):
        passes = {branch: self.clean(x, t, branch) for branch in (COND, UNCOND)}
        (cond, _), (uncond, _) = passes[COND], passes[UNCOND]
        pick, weak = None, cond
        if self.window.averages(i):
            self.take(passes[COND][1])
            statistics = self.take(passes[UNCOND][1])
            pick = self.largest(statistics) if self.window.applies(i) else None
        if pick is not None:
            self.model.see = {pick: lambda q, k, v, image: self.mixed(q, k, v, image, self.averages[pick])}
            weak = self.model(x, t, COND)
        inner = weak + EMAG_SCALE * (cond - weak)
        guided = torch.cat([(uncond + 1.5 * (inner - uncond))[:, :3], cond[:, 3:]], 1)
        return guided, None if pick is None else [pick] * len(x)

    def take(self, seen):
        statistics = {}
        for block, (q, k, image) in seen.items():
            live, old = live_of(self.variant, q, k, image), self.averages.get(block)
            self.averages[block] = live if old is None else BETA * old + (1 - BETA) * live
            statistics[block] = (self.averages[block] - live).abs().mean()
        return statistics


def with_faint_keys(pipe, block, factor=0.3):
    """Smaller keys in one block: there a statistic in query units and one in logit units differ."""
    attention = getattr(pipe.transformer.transformer_blocks[block], "attn", None)
    keys = attention.norm_k if attention else pipe.transformer.transformer_blocks[block].attn1.to_k
    with torch.no_grad():
        for parameter in keys.parameters():
            parameter.mul_(factor)
    return pipe


def compare(kind, name, variant, window, ours, rules, count=10, atol=5e-4, faint=None, **more):
    """A guided run beside the plain loop; returns the run's stats."""
    case = CASES[name]
    pipe, call = case.pipe(), lambda: case.call(num_inference_steps=count, guidance_scale=CFG_SCALE)
    pipe = pipe if faint is None else with_faint_keys(pipe, faint)
    expected = kind(pipe, call(), variant, LAYERS[name], window, **more).run()
    emag_rule = emag.EMAG(EMAG_SCALE, variant=variant, layers=LAYERS[name], beta=BETA, window=ours, **rules[0], **more)
    with emag.guide(pipe, emag_rule, *rules[1:]) as run, scheduler_steps(pipe) as steps:
        pipe(**call())
    assert [None if p is None else list(p) for p in run.stats.picks] == expected.picks
    rows = slice(0, 2)
    for step, prediction, latent in zip(steps, expected.predictions, expected.latents, strict=True):
        close(step.prediction[rows].double(), prediction, atol=atol, rtol=atol)
        close(step.after[rows].double(), latent, atol=atol, rtol=atol)
    return run.stats, expected.picks


@pytest.mark.parametrize("combiner", [(), (emag.CFG(CFG_SCALE),)], ids=["host", "cfg"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["sd3", "dit"])
def test_the_method(name, variant, combiner):
    stats, _ = compare(Clean, name, variant, sd3_window(10), PUBLISHED, ({}, *combiner))
    applied = sum(map(sd3_window(10).applies, range(10)))
    assert stats.evaluations == 10 * 2 * 4 + applied * 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_method_with_half_strength(variant):
    compare(Clean, "sd3", variant, sd3_window(8), PUBLISHED, ({},), count=8, strength=0.4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_authors_sd3_path(variant):
    stats, picks = compare(OfficialSD3, "sd3", variant, sd3_window(10), PUBLISHED, ({"compat": "sd3-official"},))
    assert stats.evaluations == 10 * 4 * 4
    assert variant == "map" or {p[0] for p in picks if p} == set(LAYERS["sd3"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_authors_sd3_path_from_a_later_start(variant):
    compare(OfficialSD3, "sd3", variant, Window(6, 1, 1, 9), emag.Window.index(6, 1, 1),
            ({"compat": "sd3-official"}, emag.CFG(CFG_SCALE)), count=9, faint=2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_jitter_on_the_authors_sd3_path(variant):
    case, images = CASES["sd3"], []
    for jitter in (0.0, 0.2, 0.2):
        pipe = case.pipe()
        with emag.guide(pipe, emag.EMAG(EMAG_SCALE, variant=variant, layers=(1, 2), window=PUBLISHED, jitter=jitter,
                                        compat="sd3-official")):
            images.append(case.run(pipe))
    assert torch.equal(images[1], images[2]) and not torch.allclose(images[0], images[1], atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("faint", [None, 2])
def test_the_authors_dit_path(variant, faint):
    stats, picks = compare(OfficialDiT, "dit", variant, Window(8, 3, 2, 10), emag.Window.index(8, 3, 2),
                           ({"compat": "dit-official"}, emag.CFG(1.5, channels=3)), faint=faint)
    assert stats.evaluations == 10 * 3 * 4
    assert sum(p is not None for p in picks) == 4
