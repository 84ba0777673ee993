"""Confidence intervals: a statistic of weighted rows, computed again for rows drawn with replacement."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ....errors import BadValue
from .frechet import FrechetTo, Moments, moments
from .jackknife import Jackknife, wilson
from .paired import paired_p


@dataclass(frozen=True)
class Estimate:
    """A value, the ends of its 95 % interval, and the number of images. p: of a paired difference, where a test of its own
    gives one."""

    value: float
    low: float
    high: float
    n: int
    p: float | None = None


@dataclass(frozen=True)
class Statistic:
    """of(weights [rows]) -> value, weights[i] saying how often row i counts; `draws`: resamples for an interval.

    biased: rows drawn twice move the value, as they do a distance. The interval is moved back. share: all of
    the rows or none is 1 or 0. each: of a mean, the values per image, which a paired test reads.
    """

    of: Callable[[np.ndarray], float]
    rows: int
    draws: int = 1000
    biased: bool = False
    share: bool = False
    each: np.ndarray | None = None

    @property
    def value(self) -> float:
        """The statistic of all rows, each once."""
        return self.of(np.ones(self.rows))

    @property
    def counted(self) -> int:
        """How many rows have a value: of a share among those that were asked, these alone."""
        return self.rows if self.each is None else int((~np.isnan(self.each.astype(float))).sum())


def mean(values: Any) -> Statistic:
    """The mean of values per image [n]; NaN rows do not count. Of true and false, the share that is true."""
    given = np.asarray(values)
    x = given.astype(np.float64)
    known = ~np.isnan(x)
    if not known.any():
        raise BadValue("no image has this value")
    filled = np.where(known, x, 0.0)
    return Statistic(lambda w: float(w @ filled / max(w @ known, 1)), len(x), share=given.dtype == bool,
                     each=given if given.dtype == bool else x)


def median(values: Any) -> Statistic:
    """The median of values per image [n]."""
    x = np.asarray(values, dtype=np.float64)
    return Statistic(lambda w: float(np.median(np.repeat(x, w.astype(int)))), len(x))


def frechet(features: Any, reference: Moments, device: str = "cpu", draws: int = 200) -> Statistic:
    """The Frechet distance of features [n, d] to a reference, fp64 on `device`; a draw weighs the rows."""
    to = FrechetTo(Moments(reference.mean.to(device), reference.cov.to(device)))
    x = torch.as_tensor(features, device=device).double()
    return Statistic(lambda w: to.to(moments(x, w, device)), len(x), draws, biased=True)


def interval(statistic: Statistic | Jackknife, seed: int = 0) -> Estimate:
    """Value and 95 % interval: percentiles of the draws; of a biased statistic, moved so that their mean is the value.

    A share that no draw moves (all of the images, or none) is not certain: its interval is Wilson's. Raises `BadValue` below
    two rows.
    """
    if isinstance(statistic, Jackknife):
        found = Estimate(statistic.value, *statistic.ends, statistic.rows)
    else:
        draws = np.array([statistic.of(w) for w in weights(statistic.rows, statistic.draws, seed)])
        found = _estimate(statistic.value, draws, statistic)
    if statistic.share and found.low == found.high and 0 <= found.value <= 1:
        return Estimate(found.value, *wilson(found.value, found.n), found.n)
    return found


def described(statistic: Statistic) -> Estimate:
    """The same for what only describes: of a single row the value alone, both ends on it."""
    if statistic.rows < 2:
        return Estimate(statistic.value, statistic.value, statistic.value, statistic.rows)
    return interval(statistic)


def difference(a: Statistic | Jackknife, b: Statistic | Jackknife, seed: int = 0) -> Estimate:
    """a - b with its interval, the same rows drawn (or left out) for both: row i of both is the same image number.

    Raises `BadValue` where the two have different numbers of rows.
    """
    if a.rows != b.rows:
        raise BadValue(f"paired differences need the same images: {a.rows} and {b.rows} rows")
    if isinstance(a, Jackknife) and isinstance(b, Jackknife):
        return interval(a.minus(b))
    assert isinstance(a, Statistic) and isinstance(b, Statistic), "one metric has one kind of statistic"
    draws = [a.of(w) - b.of(w) for w in weights(a.rows, min(a.draws, b.draws), seed)]
    p = None if a.each is None or b.each is None else paired_p(a.each, b.each)
    return replace(_estimate(a.value - b.value, np.array(draws), a), p=p)


def weights(rows: int, draws: int, seed: int) -> Any:
    """How often each row is drawn, fp64 [rows], for each of the draws; the same for the same three numbers."""
    rng = np.random.default_rng([seed, rows])
    for _ in range(draws):
        yield np.bincount(rng.integers(rows, size=rows), minlength=rows).astype(np.float64)


def _estimate(value: float, draws: np.ndarray, statistic: Statistic) -> Estimate:
    if statistic.rows < 2:
        raise BadValue("an interval needs two images or more")
    low, high = np.percentile(draws, [2.5, 97.5]) + (value - draws.mean() if statistic.biased else 0.0)
    return Estimate(value, float(low), float(high), statistic.counted)
