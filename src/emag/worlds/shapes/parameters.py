"""What an image is, in seven numbers: by them a set of images is held against the world's distribution."""

from collections.abc import Sequence

import numpy as np

from .regions import COLOUR_TABLE
from .scene import COLOURS
from .see import Found
from .verdict import Verdict

PARAMETERS = ("x", "y", "radius", "red", "green", "blue", "grey")
"""Place and radius of the object named first in pixels, its colour less its name's, and the background."""


def parameters(verdicts: Sequence[Verdict]) -> np.ndarray:
    """Parameters [n, 7] of judged images; NaN for those that are not right."""
    return np.array([_row(one) if one.right else [np.nan] * len(PARAMETERS) for one in verdicts])


def _row(verdict: Verdict) -> list[float]:
    first = _first(verdict)
    away = np.array(first.rgb) - COLOUR_TABLE[COLOURS.index(str(first.colour))]
    return [*first.place, *away.tolist(), verdict.grey]


def _first(verdict: Verdict) -> Found:
    """The object named first; of several alike the one furthest to the left."""
    found = [one for one in verdict.matched if one is not None]
    alike = [one for one in found if (one.colour, one.shape) == (found[0].colour, found[0].shape)]
    return min(alike, key=lambda one: one.place[0])
