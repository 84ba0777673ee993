"""The best shape for a region: least squares over centre and radius by Gauss-Newton steps, many regions at once."""

import numpy as np

from .render import APEX, BASE, HALF_SQUARE, distance
from .scene import SHAPES

SEARCH, REFINE = (4.0, 2.5, 1.5), (1.5, 1.0, 1.0, 1.0)
"""Widths in pixels of the edge that is fitted, step by step: wide ones reach further, 1 is the renderer's."""

KEPT, SMALLEST, LARGEST = 2, 3.0, 26.0
"""Shapes that are refined after the search, and bounds of the radius."""


def start(shape: int, box: np.ndarray) -> np.ndarray:
    """Centre and radius [m, 3] of a shape with bounding boxes [m, 4] (y0, y1, x0, x1)."""
    y0, y1, x0, x1 = box.T.astype(np.float32)
    width, height = x1 - x0 + 1, y1 - y0 + 1  # the smoothed edge loses half a pixel on each side
    radius, cy = (width + height) / 4, (y0 + y1) / 2
    if SHAPES[shape] == "square":
        radius = radius / HALF_SQUARE
    elif SHAPES[shape] == "triangle":
        radius = (width / 2.04 + height / (APEX + BASE)) / 2
        cy = y1 + 0.5 - BASE * radius
    return np.stack([(x0 + x1) / 2, cy, radius], 1)


def fit_shape(cover: np.ndarray, weight: np.ndarray, corner: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape numbers [m] and centre and radius [m, 3] that explain cover [m, w, w] (0 outside, 1 inside an object) best.

    weight [m, w, w] is 0 where a pixel does not count; corner [m, 2]: x and y of the windows' first pixels.
    """
    tried = [_descend(shape, start(shape, box), cover, weight, corner, SEARCH) for shape in range(len(SHAPES))]
    places = np.stack([place for place, _ in tried], 1)
    order = np.argsort(np.stack([error for _, error in tried], 1), 1, kind="stable")[:, :KEPT]
    best, error = places[:, 0].copy(), np.full(len(cover), np.inf)
    shapes = np.zeros(len(cover), int)
    for shape in range(len(SHAPES)):
        rows = np.flatnonzero((order == shape).any(1))
        if not len(rows):
            continue
        place, now = _descend(shape, places[rows, shape], cover[rows], weight[rows], corner[rows], REFINE)
        better = now < error[rows]
        chosen = rows[better]
        best[chosen], error[chosen], shapes[chosen] = place[better], now[better], shape
    return shapes, best


def _descend(shape: int, place: np.ndarray, cover: np.ndarray, weight: np.ndarray, corner: np.ndarray,
             edges: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    x, y = _grid(cover, corner)
    best, least = place, np.full(len(place), np.inf, np.float32)
    for edge in edges:
        d = _distance(shape, x, y, place)
        alpha = np.clip(0.5 - d / edge, 0, 1)
        rest = (cover - alpha) * weight
        error = np.square(rest).sum((1, 2))
        if edge == edges[-1]:
            best, least = np.where((error < least)[:, None], place, best), np.minimum(error, least)
        place = place + _step(shape, x, y, place, d, edge, rest, weight)
    last = np.square((cover - np.clip(0.5 - _distance(shape, x, y, place) / edges[-1], 0, 1)) * weight).sum((1, 2))
    return np.where((last < least)[:, None], place, best), np.minimum(last, least)


def _grid(cover: np.ndarray, corner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    along = np.arange(cover.shape[1], dtype=np.float32) + 0.5
    return corner[:, 0, None, None] + along[None, None, :], corner[:, 1, None, None] + along[None, :, None]


def _distance(shape: int, x: np.ndarray, y: np.ndarray, place: np.ndarray) -> np.ndarray:
    cx, cy, radius = (place[:, i, None, None] for i in range(3))
    return distance(shape, x - cx, y - cy, radius)


def _step(shape: int, x: np.ndarray, y: np.ndarray, place: np.ndarray, d: np.ndarray, edge: float, rest: np.ndarray,
          weight: np.ndarray) -> np.ndarray:
    """The Gauss-Newton step [m, 3]: slopes of the coverage by finite differences, within the edge alone."""
    inside = (np.abs(d) < edge / 2) * weight / -edge
    slopes = []
    for i in range(3):
        moved = place.copy()
        moved[:, i] += 0.05
        slopes.append((_distance(shape, x, y, moved) - d) * inside / 0.05)
    slope = np.stack(slopes, 1).reshape(len(place), 3, -1)
    normal = slope @ slope.transpose(0, 2, 1) + 0.05 * np.eye(3, dtype=np.float32)
    wanted = slope @ rest.reshape(len(place), -1, 1)
    step = np.clip(np.linalg.solve(normal, wanted)[..., 0], -2, 2)
    step[:, 2] = np.clip(place[:, 2] + step[:, 2], SMALLEST, LARGEST) - place[:, 2]
    return step
