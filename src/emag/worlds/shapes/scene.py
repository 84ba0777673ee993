"""What a scene of coloured shapes is: the request that a prompt makes, and the placed objects that answer it.

Lengths are pixels of a 64 x 64 image, x to the right and y down, colours RGB in [0, 1].
"""

from dataclasses import dataclass

import numpy as np

SIZE = 64
SHAPES = ("circle", "square", "triangle", "ring", "cross")
PALETTE = {"red": (0.88, 0.12, 0.12), "green": (0.10, 0.70, 0.20), "blue": (0.15, 0.25, 0.92),
           "yellow": (0.95, 0.85, 0.10), "purple": (0.62, 0.18, 0.80), "cyan": (0.15, 0.80, 0.88)}
COLOURS = tuple(PALETTE)
BACKGROUNDS = {"black": 0.06, "grey": 0.45, "white": 0.94}
RELATIONS = ("left of", "above", "inside", "larger than")
ROOM = {"circle": (1.0, 0.0), "square": (0.88, 0.0), "triangle": (0.586, 0.164), "ring": (0.56, 0.0)}
HOLDERS = tuple(ROOM)
"""Shapes that another object can be inside of: the largest circle within, its radius and how far it is below the centre, in
radii."""

COLOUR_JITTER, BACKGROUND_JITTER = 0.04, 0.03
"""Half widths of the uniform noise on each channel of an object's colour, and on the grey of the background."""

RADII = {"small": (5.5, 8.0), "large": (11.0, 15.0)}
RADIUS_MEAN = 9.5
"""Radii below it are small, those above are large."""

FREE_RADII = {1: (5.5, 15.0), 2: (5.5, 12.0), 3: (5.5, 10.0)}
"""Radii of objects without a size word, by the number of objects."""

REACH = {"square": 1.25, "triangle": 1.27}
"""How far corners reach from the centre, in radii; 1 for other shapes."""

HELD_RADII, HOLDER_RADII = (5.0, 6.5), (17.0, 22.0)
GAP, MARGIN, APART, LARGER = 3.0, 1.5, 8.0, 1.35
"""Least pixels between objects and to the border; least distance along a relation; least ratio of radii for "larger"."""


@dataclass(frozen=True)
class Kind:
    """An object as a prompt names it. size: "small", "large" or None (not said)."""

    colour: str
    shape: str
    size: str | None = None


@dataclass(frozen=True)
class Request:
    """All that a prompt says. kinds: one for each object; relation: of the first to the second, or None."""

    kinds: tuple[Kind, ...]
    relation: str | None = None
    background: str | None = None


@dataclass(frozen=True)
class Scene:
    """Placed objects, drawn in order of rows. shapes [n] of indices; centres [n, 2]; radii [n]; colours [n, 3];
    background [3]."""

    shapes: np.ndarray
    centres: np.ndarray
    radii: np.ndarray
    colours: np.ndarray
    background: np.ndarray
