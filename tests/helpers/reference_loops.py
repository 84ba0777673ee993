"""The authors' sampling loops, written out."""

from dataclasses import dataclass

import torch

from emag.core import COND, UNCOND
from reference import Model, Path, live_of, replaced, statistic_of

BETA, EMAG_SCALE, CFG_SCALE = 0.8, 2.0, 4.0
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
