"""Whether a paired difference is there at all: p-values of single comparisons, and their correction for many."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from .jackknife import Z95


def paired_p(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of "a and b are alike" for values per image [n], row i of both being the same image number.

    Of true and false, McNemar's exact test: of the images that only one of the two has right, each is as likely to have it.
    Of numbers, the t-test of their differences, whose mean over hundreds of images is normal. Rows with a NaN do not count.
    """
    if a.dtype == bool:
        mended, broken = int((a & ~b).sum()), int((b & ~a).sum())
        return float(stats.binomtest(mended, mended + broken, 0.5).pvalue) if mended + broken else 1.0
    rest = a.astype(float) - b.astype(float)
    rest = rest[~np.isnan(rest)]
    if len(rest) < 2 or not rest.any():
        return 1.0
    error = rest.std(ddof=1) / len(rest) ** 0.5
    return float(2 * stats.t.sf(abs(rest.mean()) / error, len(rest) - 1)) if error else 0.0


def p_of_interval(value: float, low: float, high: float) -> float:
    """The p that a 95 % interval of a normal value stands for: 0.05 where one of its ends is 0."""
    deviation = (high - low) / (2 * Z95)
    return float(value == 0) if deviation <= 0 else float(2 * stats.norm.sf(abs(value) / deviation))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): the chance of one false alarm among all stays below the level."""
    order = np.argsort(p)
    steps = np.maximum.accumulate([(len(p) - rank) * p[at] for rank, at in enumerate(order)])
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, steps)
    return corrected.tolist()
