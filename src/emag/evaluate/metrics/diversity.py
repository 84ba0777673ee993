"""How much the images of one prompt or class differ: 1 - cosine of their features, mean over the others of the group."""

from collections.abc import Sequence

import numpy as np

from ...errors import BadValue
from .jackknife import Jackknife


def dissimilarity(features: np.ndarray, groups: Sequence[object]) -> np.ndarray:
    """Per image [n], the mean of 1 - cosine to the other images of its group; NaN where there are none.

    features [n, d]; groups [n]: prompt or class of each image.
    """
    x = features.astype(np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    out = np.full(len(x), np.nan)
    for rows in _groups(groups):
        if len(rows) > 1:
            others = (x[rows] @ x[rows].sum(0) - np.einsum("nd,nd->n", x[rows], x[rows])) / (len(rows) - 1)
            out[rows] = 1 - others
    return out


def diversity(features: np.ndarray, groups: Sequence[object]) -> Jackknife:
    """The mean of `dissimilarity`. One image is in the values of all its group, so these are not independent.

    Raises `BadValue` where there is no group of two, or one pair alone.
    """
    each = dissimilarity(features, groups)
    sums, count, moved = np.nan_to_num(each), int((~np.isnan(each)).sum()), np.zeros(len(each))
    if count < 3:
        raise BadValue("diversity needs three images that share a prompt or class with another, at least")
    for rows in _groups(groups):
        size, total = len(rows), sums[rows].sum()
        if size > 2:  # the sum over ordered pairs, total (size - 1), loses both directions of those of the image
            left, those = (total - 2 * sums[rows]) * (size - 1) / (size - 2), count - 1
        elif size == 2:  # the other one is then alone, and does not count
            left, those = np.zeros(2), count - 2
        else:
            continue
        moved[rows] = sums.sum() / count - (sums.sum() - total + left) / those
    return Jackknife(float(sums.sum() / count), moved)


def _groups(groups: Sequence[object]) -> list[np.ndarray]:
    """Rows of each group."""
    _, group = np.unique(np.array([str(one) for one in groups]), return_inverse=True)
    return [np.flatnonzero(group == one) for one in range(group.max(initial=-1) + 1)]
