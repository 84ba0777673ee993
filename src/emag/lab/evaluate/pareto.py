"""Pareto fronts: what no other point beats in every respect."""

from collections.abc import Sequence

import numpy as np


def front(values: np.ndarray, higher: Sequence[bool]) -> np.ndarray:
    """Which rows of values [n, objectives] are on the front, bool [n]: no row is as good in all and better in one.

    higher: of each objective, whether more is better. Rows with a NaN are never on it.
    """
    x = np.where(np.asarray(higher), -np.asarray(values, float), np.asarray(values, float))
    known = ~np.isnan(x).any(1)
    beaten = [bool((known & (x <= row).all(1) & (x < row).any(1)).any()) for row in x]
    return known & ~np.array(beaten, bool)
