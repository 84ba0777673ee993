"""Whole runs against plain loops: own attention, whole maps, whole passes, one sample at a time, fp64."""

from dataclasses import dataclass

import pytest
import torch

import emag
from emag.core import COND, UNCOND
from reference import LAYERS, VARIANTS, Model, Path, live_of, replaced, scheduler_steps, statistic_of
from tiny import CASES

BETA, EMAG_SCALE, CFG_SCALE = 0.8, 2.0, 4.0
PUBLISHED = emag.Window.published(250, 50, 50)
close = torch.testing.assert_close


def nearest(k, count):
    """round(k (N - 1) / 250), halves to even, in integers."""
    whole, rest = divmod(k * (count - 1), 250)
    return whole + (rest > 125 or (rest == 125 and whole % 2))


@dataclass
class Window:
    """Steps by the reversed index: averaging and applying."""

    start: int
    delta: int
    stop: int
    count: int

    def averages(self, i):
        return self.stop <= self.count - 1 - i <= self.start

    def applies(self, i):
        return self.stop <= self.count - 1 - i <= self.start - self.delta


def sd3_window(count):
    return Window(nearest(250, count), nearest(50, count), nearest(50, count), count)


@dataclass
class Made:
    predictions: list
    latents: list
    picks: list


class Loop:
    """What the loops share. `variant`, `layers`; `model` and `path` of a pipeline's call."""

    def __init__(self, pipe, call, variant, layers, window, strength=1.0):
        self.model, self.path = Model(pipe, call), Path(pipe, call)
        self.variant, self.layers, self.window, self.strength = variant, layers, window, strength
        self.averages, self.made = {}, Made([], [], [])

    def run(self):
        x = self.path.x
        for i, t in enumerate(self.path.timesteps):
            prediction, picks = self.guided(x, t, i)
            x = self.path.step(prediction, i, x)
            self.made.predictions.append(prediction)
            self.made.latents.append(x)
            self.made.picks.append(picks)
        return self.made

    def clean(self, x, t, branch):
        """A clean pass, and what each candidate block did in it."""
        seen = {}

        def see(block):
            def attention(q, k, v, image):
                seen[block] = (q, k, image)
                return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v

            return attention

        self.model.see = {block: see(block) for block in self.layers}
        return self.model(x, t, branch), seen

    def mixed(self, q, k, v, image, average):
        live = live_of(self.variant, q, k, image)
        new = (1 - self.strength) * live + self.strength * average.double()
        return replaced(self.variant, q, k, v, image, new)

    def largest(self, statistics):
        """The first listed of the blocks with the largest statistic."""
        return max(self.layers, key=lambda block: (float(statistics[block]), -self.layers.index(block)))


class Clean(Loop):
    """The method: averages of the clean conditional pass, statistic before the update, a pick per sample."""

    def guided(self, x, t, i):
        cond, seen = self.clean(x, t, COND)
        statistics = self.take(seen) if self.window.averages(i) else None
        uncond = self.clean(x, t, UNCOND)[0]
        picks, weak = None, cond
        if self.window.applies(i):
            picks = [self.largest({block: s[row] for block, s in statistics.items()}) for row in range(len(x))]
            weak = torch.cat([self.weak(x, t, row, pick) for row, pick in enumerate(picks)])
        return uncond + CFG_SCALE * (weak + EMAG_SCALE * (cond - weak) - uncond), picks

    def take(self, seen):
        statistics, name = {}, "logits" if self.variant == "query" else "mae"
        for block, (q, k, image) in seen.items():
            live, old = live_of(self.variant, q, k, image), self.averages.get(block)
            statistics[block] = torch.zeros(len(q)) if old is None else statistic_of(name, self.variant, old, q, k, image)
            self.averages[block] = live if old is None else BETA * old + (1 - BETA) * live
        return statistics

    def weak(self, x, t, row, pick):
        average = self.averages[pick][row:row + 1]
        self.model.see = {pick: lambda q, k, v, image: self.mixed(q, k, v, image, average)}
        return self.model(x, t, COND, slice(row, row + 1))


class OfficialSD3(Loop):
    """The authors' SD3 path: a perturbed pass of both halves at every step, which averages and then applies."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.statistics = {}

    def guided(self, x, t, i):
        uncond, cond = self.clean(x, t, "both")[0].chunk(2)
        pick = self.largest(self.statistics) if self.window.applies(i) else None
        self.model.see = {block: self.attention(block, block == pick, self.window.averages(i)) for block in self.layers}
        weak = self.model(x, t, "both").chunk(2)[1]
        inner = weak + EMAG_SCALE * (cond - weak)
        return uncond + CFG_SCALE * (inner - uncond), None if pick is None else [pick] * len(x)

    def attention(self, block, chosen, averaging):
        def see(q, k, v, image):
            if averaging:
                self.take(block, live_of(self.variant, q, k, image))
            if chosen:
                return self.mixed(q, k, v, image, self.averages[block])
            return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v

        return see

    def take(self, block, live):
        old = self.averages.get(block)
        self.statistics[block] = 0.0 if old is None else (old.double() - live).abs().mean()
        half = live.to(torch.float16)
        self.averages[block] = half if old is None else torch.add(old * BETA, half, alpha=1 - BETA)


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
