"""How real images look to a classifier that was trained to tell a model's plain images from real ones.

The nearest thing to a preference that needs no human: what the model gets wrong in general, guidance may mend or worsen.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from ....errors import BadValue
from .extractors.base import needs
from .reference import Reference

STRENGTH = 0.01
"""Inverse weight of the penalty: features are many and correlated, images few."""


def realness(real: Reference, plain: Reference, features: np.ndarray) -> np.ndarray:
    """Probability of being real, in [0, 1], of features [n, d]; 0.5 is not told from real.

    real, plain: features of real images, and of images without guidance on other seeds than those judged. Raises `BadValue`
    where a file holds moments alone, or some of the images judged are those it was trained on.
    """
    for one in (real, plain):
        if one.features is None:
            raise BadValue(f"the discriminator needs features, and {one.name} holds only mu and sigma")
    known = {row.tobytes() for row in np.asarray(plain.features, np.float32)}
    if any(row.tobytes() in known for row in np.asarray(features, np.float32)):
        raise BadValue(f"{plain.name} holds images of this run: a discriminator judges others than those it learned from; "
                       "make plain ones with another seed")
    return np.asarray(_trained(real, plain).predict_proba(features)[:, 1], np.float64)


@lru_cache(maxsize=4)
def _trained(real: Reference, plain: Reference) -> Any:
    """Logistic regression on standardised features, both classes of the same weight."""
    assert real.features is not None and plain.features is not None
    x = np.concatenate([plain.features, real.features])
    y = np.repeat([0, 1], [len(plain.features), len(real.features)])
    return needs(_classifier, "the discriminator", "emag[eval]").fit(x, y)  # type: ignore[attr-defined]


def _classifier() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000))
