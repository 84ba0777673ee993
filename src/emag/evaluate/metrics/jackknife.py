"""Intervals of values that are no means of independent values: how far leaving out one image moves the value.

The jackknife variance (n - 1) / n sum (m_i - mean m)^2 is on average at least the true one (Efron and Stein 1981).
"""

from dataclasses import dataclass

import numpy as np

from ...errors import BadValue

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Jackknife:
    """moved [n]: the value minus the value without image i. share: the value is a share, in [0, 1]."""

    value: float
    moved: np.ndarray
    share: bool = False

    @property
    def rows(self) -> int:
        """How many images."""
        return len(self.moved)

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the 95 % interval. Raises `BadValue` below two images."""
        return around(self.value, deviation(self.moved), self.share)

    def minus(self, other: "Jackknife") -> "Jackknife":
        """The difference to the value of other images, row i of both being the same image number."""
        return Jackknife(self.value - other.value, self.moved - other.moved)


def deviation(moved: np.ndarray) -> float:
    """The standard deviation of a value, from what each image moves it."""
    if len(moved) < 2:
        raise BadValue("an interval needs two images or more")
    return float(((len(moved) - 1) * moved.var()) ** 0.5)


def around(value: float, deviation: float, share: bool = False) -> tuple[float, float]:
    """The normal interval; of a share, what of it lies in [0, 1]."""
    low, high = value - Z95 * deviation, value + Z95 * deviation
    return (max(0.0, low), min(1.0, high)) if share else (low, high)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n independent images; all of [0, 1] where n is 0."""
    if not n:
        return 0.0, 1.0
    half = Z95 * (share * (1 - share) / n + Z95**2 / (4 * n**2)) ** 0.5
    centre, scale = share + Z95**2 / (2 * n), 1 + Z95**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
