"""Scales that grow as the noise falls, and one that rises and falls again."""

import math
from dataclasses import dataclass

from ..core import Schedule, Step


@dataclass(frozen=True)
class C2FG(Schedule):
    """C2FG: a scale that grows by an exponential of the time that has passed.

    w exp(rate (1 - t)), t the share of the training schedule, 1 at pure noise: from w to w e^rate. The paper calls w
    the largest value; by its formula it is the smallest.

    Args:
        scale: w at pure noise, at least 0. None takes the rule's default.
        rate: lambda; 0 is constant. log 2 for DiT-XL with w 1, 1 for SiT-XL, 0.2 for SD1.5, as published.

    >>> import emag
    >>> emag.CFG(emag.C2FG(4.0)).scale.rate
    0.2
    """

    rate: float = 0.2

    name = "c2fg"
    paper = "arXiv 2603.08155"
    equation = "w exp(rate (1 - t))"

    def known(self, step: Step) -> float | None:
        return self.strength * math.exp(self.rate * (1 - step.time))


@dataclass(frozen=True)
class Triangle(Schedule):
    """TV-CFG: a scale that rises from 1 to its peak half way and falls to 1 again, with a given mean.

    The triangle over the steps is multiplied so that its mean over flow time, each step weighted by how far the time
    falls after it, is w. So runs of any spacing get the same amount of guidance, and the ends are not quite 1.

    Args:
        scale: w, the mean, at least 0; 1 is off. None takes the rule's default.

    >>> import emag
    >>> emag.CFG(emag.Triangle(4.0)).scale.name
    'triangle'
    """

    name = "triangle"
    paper = "arXiv 2509.22007"
    equation = "w tri(i) / mean of tri over flow time, tri from 1 to 2 w - 1 and back"

    def known(self, step: Step) -> float | None:
        if self.strength == 1:
            return 1.0
        times = [s / (a + s) for a, s in zip((*step.alphas, step.end[0]), (*step.sigmas, step.end[1]), strict=True)]
        curve = triangle(self.strength, step.count)
        mean = sum(w * (t - after) for w, t, after in zip(curve, times, times[1:], strict=False)) / (times[0] - times[-1])
        return self.strength * curve[step.index] / mean


def triangle(scale: float, count: int) -> list[float]:
    """1 to 2 scale - 1 and back in `count` steps; where that is even, the way up has no end point, as published."""
    half, peak = (count + 1) // 2, 2 * scale - 2
    if count % 2:
        return [1 + peak * (1 - abs(i - half + 1) / max(1, half - 1)) for i in range(count)]
    return [1 + peak * i / half for i in range(half)] + [1 + peak * (1 - i / max(1, half - 1)) for i in range(half)]

