"""Whether a set of images has the world's distribution: exact tests of parameters, a distance, precision and recall.

The truth is drawn anew: for each prompt one scene, seeded, so both sets answer the same prompts. From each image the object
named first is looked at (or the first of several alike, from the left), one for each image, so that rows are independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...errors import BadValue
from ...worlds.shapes import draw
from ...worlds.shapes.parameters import PARAMETERS, parameters
from ...worlds.shapes.prompts import read
from ...worlds.shapes.render import render, to_bytes
from ...worlds.shapes.verdict import judge
from .metrics.frechet import distance, moments
from .metrics.paired import holm
from .metrics.prdc import prdc

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


def compare(images: np.ndarray, prompts: Sequence[str], seed: int = 0, k: int = 5) -> Comparison:
    """Compare images [n, 64, 64, 3] to true scenes of the same prompts; k: neighbour that precision and recall reach to.

    Only images that are right count: what they get wrong is the judge's to say. Raises `BadValue` with fewer than 20.
    """
    return compare_parameters(parameters(judge(images, prompts)), prompts, seed, k)


@lru_cache(maxsize=4)
def true_parameters(prompts: tuple[str, ...], seed: int) -> np.ndarray:
    """Parameters [n, 7] of the true scenes of the prompts; kept for the next set of images."""
    return parameters(judge(drawn(prompts, seed), prompts))


def compare_parameters(mine: np.ndarray, prompts: Sequence[str], seed: int = 0, k: int = 5) -> Comparison:
    """The same for images that are judged already: their parameters [n, 7], NaN for those that are not right."""
    true = true_parameters(tuple(prompts), seed)
    both = ~np.isnan(mine[:, 0]) & ~np.isnan(true[:, 0])
    if both.sum() < LEAST:
        raise BadValue(f"only {both.sum()} of {len(mine)} images are right; a comparison with the truth needs {LEAST}")
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
