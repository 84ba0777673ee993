"""What reads images for metrics: numbers per image, by name. Which weights, resizer and version is part of every result."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from .....models.judges import needs

__all__ = ["Extractor", "Features", "Picky", "needs"]

Features = dict[str, np.ndarray]


class Extractor(Protocol):
    """version: model, weights and preprocessing, as short text. Features of different versions are never compared."""

    @property
    def version(self) -> str:
        """Model, weights and preprocessing."""

    def check(self) -> None:
        """Raise `BadValue` where a package or weights are missing; loads the model."""

    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        """uint8 images [n, h, w, 3] and their n prompts -> fp32 arrays [n, ...]: features, logits or score."""


@runtime_checkable
class Picky(Protocol):
    """An extractor that must not judge images of some seeds."""

    def refuse(self, recipe: str, seeds: Sequence[int | None]) -> None:
        """Raise `BadValue` where one of the seeds (None: not known) is among them."""
