"""Kernel inception distance: unbiased MMD^2 with the kernel (x . y / d + 1)^3, mean over random subsets."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import BadValue
from .bootstrap import Estimate
from .jackknife import around

SUBSETS, SIZE = 100, 1000


@dataclass(frozen=True)
class Subset:
    """MMD^2 of one subset of each side, and the variances of what one image of x, and of y, adds to it."""

    value: float
    of_x: float
    of_y: float


def mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD^2 of features [m, d] and [n, d]; may be below 0."""
    return subset(x, y).value


def subset(x: np.ndarray, y: np.ndarray) -> Subset:
    """The same, with the variances of the first-order terms 2 (mean_j k(x_i, x_j) - mean_j k(x_i, y_j)), j not i."""
    kxx, kyy, kxy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    own_x, own_y = ((k.sum(1) - np.diag(k)) / (len(k) - 1) for k in (kxx, kyy))
    adds_x, adds_y = 2 * (own_x - kxy.mean(1)), 2 * (own_y - kxy.mean(0))
    return Subset(float(own_x.mean() + own_y.mean() - 2 * kxy.mean()), float(adds_x.var(ddof=1)), float(adds_y.var(ddof=1)))


def subset_size(n: int, r: int, size: int = SIZE) -> int:
    """Rows of a subset: `size`, or all where there are fewer."""
    return min(size, n, r)


def kid(x: np.ndarray, y: np.ndarray, subsets: int = SUBSETS, size: int = SIZE, seed: int = 0) -> Estimate:
    """KID of generated `x` [n, d] and reference features `y` [r, d]: the mean over `subsets` pairs of random subsets.

    A subset has `size` rows, or all where there are fewer. Subsets share images, so their spread is no interval: the
    variance is that of the n images and the r reference images, v_x / n + v_y / r, and that of the choice of subsets. Where
    both sides are of one distribution it is twice the true one, on average. Raises `BadValue` below two rows.
    """
    size = subset_size(len(x), len(y), size)
    if size < 2:
        raise BadValue("KID needs two images or more on each side")
    found = [subset(a, b) for a, b in _drawn(x.astype(np.float64), y.astype(np.float64), subsets, size, seed)]
    values = np.array([one.value for one in found])
    chosen = values.var(ddof=1) / len(values) if len(values) > 1 else 0.0
    variance = np.mean([one.of_x for one in found]) / len(x) + np.mean([one.of_y for one in found]) / len(y) + chosen
    return Estimate(float(values.mean()), *around(float(values.mean()), float(variance) ** 0.5), len(x))


def _drawn(x: np.ndarray, y: np.ndarray, subsets: int, size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of subsets; one pair where it would be all rows each time."""
    if size == len(x) == len(y):
        yield x, y
        return
    rng = np.random.default_rng(seed)
    for _ in range(subsets):
        yield x[rng.choice(len(x), size, False)], y[rng.choice(len(y), size, False)]


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    k = x @ y.T / x.shape[1] + 1
    return k * k * k
