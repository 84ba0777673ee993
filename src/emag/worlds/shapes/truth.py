"""Whether a set of images has the world's distribution: exact tests of parameters, a distance, precision and recall.

The truth is drawn anew: for each prompt one scene, seeded, so both sets answer the same prompts. From each image the object
named first is looked at (or the first of several alike, from the left), one for each image, so that rows are independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import BadValue
from ...evaluate.metrics.frechet import distance, moments
from ...evaluate.metrics.prdc import prdc
from . import draw
from .prompts import read
from .regions import COLOUR_TABLE
from .render import render, to_bytes
from .scene import COLOURS
from .see import Found
from .verdict import Verdict, judge

PARAMETERS = ("x", "y", "radius", "red", "green", "blue", "grey")
"""Parameters tested: place and radius of an object in pixels, its colour less its name's, and the background."""

LEAST, SWAPS, CHUNK = 20, 999, 100
"""Right images that a comparison needs, random swaps in a test, and how many of them are held at a time."""


@dataclass(frozen=True)
class Difference:
    """A parameter against the truth. distance: largest difference of the two distribution functions, in [0, 1]. p: exact, by
    swapping the image and the true scene of a prompt at random, with Holm's correction over all parameters. spread: standard
    deviation over the truth's; below 1, diversity is lost."""

    parameter: str
    distance: float
    p: float
    spread: float


@dataclass(frozen=True)
class Comparison:
    """A set of images against the truth. right: images counted. frechet: distance of Gaussians fitted to the parameters, in
    units of the truth's spread. precision, recall: shares within the other set's neighbourhoods."""

    right: int
    differences: tuple[Difference, ...]
    frechet: float
    precision: float
    recall: float


def drawn(prompts: Sequence[str], seed: int) -> np.ndarray:
    """uint8 images [n, 64, 64, 3] of true scenes of the prompts; row i is decided by the seed, i and its prompt alone."""
    return to_bytes(render([draw.place(read(prompt), np.random.default_rng([seed, i])) for i, prompt in enumerate(prompts)]))


def parameters(verdicts: Sequence[Verdict]) -> np.ndarray:
    """Parameters [n, 7] of judged images; NaN for those that are not right."""
    return np.array([_row(one) if one.right else [np.nan] * len(PARAMETERS) for one in verdicts])


def _row(verdict: Verdict) -> list[float]:
    first = _first(verdict)
    away = np.array(first.rgb) - COLOUR_TABLE[COLOURS.index(str(first.colour))]
    return [*first.place, *away.tolist(), verdict.grey]


def _first(verdict: Verdict) -> Found:
    """The object named first; of several alike the one furthest to the left."""
    found = [one for one in verdict.matched if one is not None]
    alike = [one for one in found if (one.colour, one.shape) == (found[0].colour, found[0].shape)]
    return min(alike, key=lambda one: one.place[0])


def compare(images: np.ndarray, prompts: Sequence[str], seed: int = 0, k: int = 5) -> Comparison:
    """Compare images [n, 64, 64, 3] to true scenes of the same prompts; k: neighbour that precision and recall reach to.

    Only images that are right count: what they get wrong is the judge's to say. Raises `BadValue` with fewer than 20.
    """
    mine, true = (parameters(judge(some, prompts)) for some in (images, drawn(prompts, seed)))
    both = ~np.isnan(mine[:, 0]) & ~np.isnan(true[:, 0])
    if both.sum() < LEAST:
        raise BadValue(f"only {both.sum()} of {len(images)} images are right; a comparison with the truth needs {LEAST}")
    mine, true = mine[both], true[both]
    tests = [swap_test(a, b, seed) for a, b in zip(mine.T, true.T)]
    corrected = holm([p for _, p in tests])
    a, b = mine / true.std(0), true / true.std(0)
    manifolds = prdc(b, a, k)
    return Comparison(
        int(both.sum()), tuple(Difference(name, far, p, float(x.std() / y.std())) for name, (far, _), p, x, y in
                               zip(PARAMETERS, tests, corrected, mine.T, true.T)),
        distance(moments(a), moments(b)), float(manifolds.precision.mean()), float(manifolds.recall.mean()))


def swap_test(a: np.ndarray, b: np.ndarray, seed: int) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of paired values a [n] and b [n], and its exact p: were both drawn alike, any swap within
    a pair would be as likely as none."""
    values = np.concatenate([a, b])
    order = np.argsort(values, kind="stable")
    last = np.append(np.diff(values[order]) > 0, True)  # between equal values the functions have no value
    rng = np.random.default_rng(seed)

    def distances(signs: np.ndarray) -> np.ndarray:
        steps = np.concatenate([signs, -signs], 1)[:, order]
        return np.abs(steps.cumsum(1)[:, last]).max(1) / len(a)

    seen = float(distances(np.ones((1, len(a)), np.int32))[0])
    left = SWAPS
    reached = 1
    while left:
        count = min(CHUNK, left)
        signs = rng.integers(0, 2, (count, len(a)), np.int32) * 2 - 1
        reached += int((distances(signs) >= seen - 1e-12).sum())
        left -= count
    return seen, reached / (SWAPS + 1)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): the chance of one false alarm among all stays below the level."""
    order = np.argsort(p)
    steps = np.maximum.accumulate([(len(p) - rank) * p[at] for rank, at in enumerate(order)])
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, steps)
    return corrected.tolist()
