"""How much the images of one prompt or class differ: 1 - cosine of their features, mean over the others of the group."""

from collections.abc import Sequence

import numpy as np


def dissimilarity(features: np.ndarray, groups: Sequence[object]) -> np.ndarray:
    """Per image [n], the mean of 1 - cosine to the other images of its group; NaN where there are none.

    features [n, d]; groups [n]: prompt or class of each image.
    """
    x = features.astype(np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    out = np.full(len(x), np.nan)
    _, group = np.unique(np.array([str(one) for one in groups]), return_inverse=True)
    for rows in (np.flatnonzero(group == one) for one in range(group.max(initial=-1) + 1)):
        if len(rows) > 1:
            others = (x[rows] @ x[rows].sum(0) - np.einsum("nd,nd->n", x[rows], x[rows])) / (len(rows) - 1)
            out[rows] = 1 - others
    return out
