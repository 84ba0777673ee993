"""Whether a paired difference is there at all: p-values of single comparisons, and their correction for many."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from .jackknife import Z95


def paired_p(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of "a and b are alike" for values per image [n], row i of both being the same image number.

    Of true and false (or 1 and 0), McNemar's exact test: of the images that only one of the two has right, each is as likely
    to have it. Of numbers, the t-test of their differences, whose mean over hundreds of images is normal; but where only m
    images differ, no p below 2 / 2^m, as if all m moved one way by chance. Rows with a NaN do not count.
    """
    both = ~(np.isnan(a.astype(float)) | np.isnan(b.astype(float)))
    x, y = a[both].astype(float), b[both].astype(float)
    rest = x - y
    moved = int(np.count_nonzero(rest))
    if not moved:
        return 1.0
    if np.isin([x, y], (0, 1)).all():
        return float(stats.binomtest(int((rest > 0).sum()), moved, 0.5).pvalue)
    error = rest.std(ddof=1) / len(rest) ** 0.5 if len(rest) > 1 else 0.0
    normal = float(2 * stats.t.sf(abs(rest.mean()) / error, len(rest) - 1)) if error else 0.0
    return max(normal, 2.0 ** (1 - moved))


def p_of_interval(value: float, low: float, high: float, n: int | None = None) -> float:
    """The p that a 95 % interval of a normal value stands for: 0.05 where one of its ends is 0; 1 without a width, as an
    interval that knows of no spread tells nothing. n: of the images that its width is estimated from, with Student's tails:
    far out, those of a normal value are too thin for a few images. None: the width is known."""
    deviation = (high - low) / (2 * Z95)
    return 1.0 if deviation <= 0 else float(2 * stats.t.sf(abs(value) / deviation, n - 1 if n else np.inf))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): the chance of one false alarm among all stays below the level."""
    order = np.argsort(p)
    steps = np.maximum.accumulate([(len(p) - rank) * p[at] for rank, at in enumerate(order)])
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, steps)
    return corrected.tolist()
