"""Where objects may be: connected regions of one colour, or of pixels that a rendering does not explain."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .scene import BACKGROUND_JITTER, BACKGROUNDS, COLOURS, PALETTE

COLOUR_TABLE = np.array([PALETTE[name] for name in COLOURS], np.float32)
GREYS = np.array(list(BACKGROUNDS.values()), np.float32)
NEAR, FAR, LEAST = 0.26, 0.17, 18
"""Distance (all channels) within which a pixel has a palette's colour; difference (largest channel) from the background, or
from a rendering, that must be explained; pixels of the smallest region."""

EVERYWHERE = np.ones((3, 3), int)


@dataclass(frozen=True)
class Region:
    """Pixels of one image that may be one object. image: its number; mask [h, w]; box: y0, y1, x0, x1 (end excluded)."""

    image: int
    mask: np.ndarray
    box: tuple[int, int, int, int]
    area: int


def smooth(images: np.ndarray) -> np.ndarray:
    """Images [n, h, w, c] weighted by 1 2 1 along both axes: noise goes down to three eighths."""
    kernel = np.array([0.25, 0.5, 0.25], np.float32)
    return ndimage.convolve1d(ndimage.convolve1d(images, kernel, axis=1, mode="nearest"), kernel, axis=2, mode="nearest")


def backgrounds(images: np.ndarray) -> np.ndarray:
    """Colour [n, 3] of the background: the median along the border, where the world has no objects."""
    border = np.concatenate([images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], 1)
    return np.median(border, 1)


def by_colour(calm: np.ndarray, background: np.ndarray) -> list[Region]:
    """Regions [of all images] of pixels that differ from the background and are near one colour of the palette."""
    differs = np.abs(calm - background[:, None, None]).max(-1) > FAR
    distances = np.stack([np.square(calm - colour).sum(-1) for colour in COLOUR_TABLE], -1)
    label = np.where(differs & (distances.min(-1) < NEAR**2), distances.argmin(-1), -1)
    return [region for image in range(len(calm)) for colour in np.unique(label[image]) if colour >= 0
            for region in _connected(image, label[image] == colour)]


def unexplained(calm: np.ndarray, rendered: np.ndarray) -> list[Region]:
    """Regions whose colour is not that of a rendering, both smoothed alike."""
    differs = np.abs(calm - rendered).max(-1) > FAR
    return [region for image in np.flatnonzero(differs.any((1, 2))) for region in _connected(int(image), differs[image])]


def _connected(image: int, mask: np.ndarray) -> list[Region]:
    labels, _ = ndimage.label(mask, EVERYWHERE)
    found = []
    for number, where in enumerate(ndimage.find_objects(labels), 1):
        part = labels == number
        area = int(part[where].sum())
        if area >= LEAST:
            (a, b), (c, d) = ((axis.start, axis.stop) for axis in where)
            found.append(Region(image, part, (a, b, c, d), area))
    return found


def nearest_colour(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the palette's nearest colour to rgb [n, 3], and how far it is, over all channels."""
    distances = np.sqrt(np.square(rgb[:, None] - COLOUR_TABLE).sum(-1))
    return distances.argmin(1), distances.min(1)


def nearest_grey(rgb: np.ndarray) -> np.ndarray:
    """Index of the background's name nearest to rgb [n, 3]."""
    return np.abs(rgb.mean(-1, keepdims=True) - GREYS).argmin(1)


def allowed_grey(rgb: np.ndarray) -> np.ndarray:
    """The background [n, 3] of the world nearest to rgb [n, 3]."""
    middle = GREYS[nearest_grey(rgb)]
    return np.repeat(np.clip(rgb.mean(-1), middle - BACKGROUND_JITTER, middle + BACKGROUND_JITTER)[:, None], 3, 1)
