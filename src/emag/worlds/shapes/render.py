"""The renderer: signed distances to the shapes, coverage of a pixel from them, objects laid over the background."""

from collections.abc import Sequence

import numpy as np

from .scene import SHAPES, SIZE, Scene

HALF_SQUARE, BASE, APEX, HOLE, ARM = 0.88, 0.75, 1.0, 0.56, 0.34
"""In radii: half a square, a triangle's base below and apex above its centre, a ring's hole, half a cross's arm."""

SLOPE = (APEX + BASE) / 1.02  # height over half the base
NORMAL = np.array([SLOPE, 1.0]) / np.hypot(SLOPE, 1.0)


def distance(shape: int, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance in pixels (negative inside) of points (x, y) from the outline of a shape around the origin."""
    name = SHAPES[shape]
    if name == "circle":
        return np.hypot(x, y) - radius
    if name == "square":
        return np.maximum(np.abs(x), np.abs(y)) - HALF_SQUARE * radius
    if name == "triangle":
        return np.maximum(y - BASE * radius, np.abs(x) * NORMAL[0] - (y + APEX * radius) * NORMAL[1])
    if name == "ring":
        return np.abs(np.hypot(x, y) - (1 + HOLE) / 2 * radius) - (1 - HOLE) / 2 * radius
    long, wide = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return np.maximum(long - radius, wide - ARM * radius)


def coverage(shape: int, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Share of a pixel around (x, y) that the shape covers: the distance, cut off half a pixel to both sides."""
    return np.clip(0.5 - distance(shape, x, y, radius), 0, 1)


_AXIS = np.arange(SIZE) + 0.5


def render(scenes: Sequence[Scene]) -> np.ndarray:
    """Images [n, 64, 64, 3] in [0, 1], fp32."""
    return np.stack([_one(scene) for scene in scenes])


def _one(scene: Scene) -> np.ndarray:
    image = np.empty((SIZE, SIZE, 3), np.float32)
    image[:] = scene.background
    for shape, (cx, cy), radius, colour in zip(scene.shapes, scene.centres, scene.radii, scene.colours):
        # nothing reaches further than 1.3 radii from the centre
        r = 1.3 * radius + 2
        a, b = max(0, int(cy - r)), min(SIZE, int(cy + r) + 1)
        c, d = max(0, int(cx - r)), min(SIZE, int(cx + r) + 1)
        alpha = coverage(shape, _AXIS[None, c:d] - cx, _AXIS[a:b, None] - cy, radius)[..., None]
        image[a:b, c:d] += alpha * (colour - image[a:b, c:d])
    return image


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1] as uint8, rounded."""
    return (np.clip(images, 0, 1) * 255 + 0.5).astype(np.uint8)
