"""Kernel inception distance: unbiased MMD^2 with the kernel (x . y / d + 1)^3, mean over random subsets."""

import numpy as np

from ....errors import BadValue
from .bootstrap import Estimate, spread


def mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD^2 of features [m, d] and [n, d]; may be below 0."""
    kxx, kyy, kxy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    m, n = len(x), len(y)
    within = (kxx.sum() - np.trace(kxx)) / (m * (m - 1)) + (kyy.sum() - np.trace(kyy)) / (n * (n - 1))
    return float(within - 2 * kxy.mean())


def kid(x: np.ndarray, y: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 0) -> Estimate:
    """KID of generated `x` [n, d] and reference features `y` [r, d].

    Mean over `subsets` pairs of random subsets of `size` rows; the interval is their spread, brought from `size` to n rows.
    Raises `BadValue` where there are fewer than two rows; `size` is at most the number of rows.
    """
    size = min(size, len(x), len(y))
    if size < 2:
        raise BadValue("KID needs two images or more on each side")
    rng, x, y = np.random.default_rng(seed), x.astype(np.float64), y.astype(np.float64)
    values = [mmd2(x[rng.choice(len(x), size, False)], y[rng.choice(len(y), size, False)]) for _ in range(subsets)]
    return spread(np.array(values), len(x), (size / len(x)) ** 0.5)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    k = x @ y.T / x.shape[1] + 1
    return k * k * k
