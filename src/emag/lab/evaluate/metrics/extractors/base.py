"""What reads images for metrics: numbers per image, by name. Which weights, resizer and version is part of every result."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from .....errors import BadValue

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


def needs(build: Callable[[], object], what: str, install: str) -> object:
    """`build()`; a missing package or missing weights become one `BadValue` that says how to get them."""
    try:
        return build()
    except ImportError as error:
        raise BadValue(f"{what} needs a package that is not here ({error.name or error}): pip install {install}") from error
    except (OSError, ValueError, RuntimeError) as error:
        text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BadValue(f"{what}: its weights cannot be loaded ({text}); they are fetched once, so run this where there is "
                       "a network, or choose other metrics") from error
