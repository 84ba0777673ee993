"""Confidence intervals: a statistic of weighted rows, computed again for rows drawn with replacement."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ....errors import BadValue
from .frechet import Distance, Moments, moments

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A value, the ends of its 95 % interval, and the number of images."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Statistic:
    """of(weights [rows]) -> value, weights[i] saying how often row i counts; `draws`: resamples for an interval.

    biased: rows drawn twice move the value, as they do a distance. The interval is moved back.
    """

    of: Callable[[np.ndarray], float]
    rows: int
    draws: int = 1000
    biased: bool = False

    @property
    def value(self) -> float:
        """The statistic of all rows, each once."""
        return self.of(np.ones(self.rows))


def mean(values: Any) -> Statistic:
    """The mean of values per image [n]; NaN rows do not count."""
    x = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(x)
    if not known.any():
        raise BadValue("no image has this value")
    filled = np.where(known, x, 0.0)
    return Statistic(lambda w: float(w @ filled / max(w @ known, 1)), len(x))


def frechet(features: Any, reference: Moments, device: str = "cpu", draws: int = 200) -> Statistic:
    """The Frechet distance of features [n, d] to a reference, fp64 on `device`; a draw weighs the rows."""
    to = Distance(Moments(reference.mean.to(device), reference.cov.to(device)))
    x = torch.as_tensor(features, device=device).double()
    return Statistic(lambda w: to.to(moments(x, w, device)), len(x), draws, biased=True)


def interval(statistic: Statistic, seed: int = 0) -> Estimate:
    """Value and 95 % interval: percentiles of the draws; of a biased statistic, moved so that their mean is the value."""
    draws = np.array([statistic.of(w) for w in weights(statistic.rows, statistic.draws, seed)])
    return _estimate(statistic.value, draws, statistic)


def difference(a: Statistic, b: Statistic, seed: int = 0) -> Estimate:
    """a - b with its interval, the same rows drawn for both: row i of both is the same image number (or reference image).

    Raises `BadValue` where the two have different numbers of rows.
    """
    if a.rows != b.rows:
        raise BadValue(f"paired differences need the same images: {a.rows} and {b.rows} rows")
    draws = [a.of(w) - b.of(w) for w in weights(a.rows, min(a.draws, b.draws), seed)]
    return _estimate(a.value - b.value, np.array(draws), a)


def weights(rows: int, draws: int, seed: int) -> Any:
    """How often each row is drawn, fp64 [rows], for each of the draws; the same for the same three numbers."""
    rng = np.random.default_rng([seed, rows])
    for _ in range(draws):
        yield np.bincount(rng.integers(rows, size=rows), minlength=rows).astype(np.float64)


def spread(values: np.ndarray, n: int, factor: float = 1.0) -> Estimate:
    """The mean of values of subsets, and a normal interval of `factor` times their standard deviation."""
    half = Z95 * factor * float(values.std(ddof=1)) if len(values) > 1 else 0.0
    centre = float(values.mean())
    return Estimate(centre, centre - half, centre + half, n)


def _estimate(value: float, draws: np.ndarray, statistic: Statistic) -> Estimate:
    low, high = np.percentile(draws, [2.5, 97.5]) + (value - draws.mean() if statistic.biased else 0.0)
    return Estimate(value, float(low), float(high), statistic.rows)
