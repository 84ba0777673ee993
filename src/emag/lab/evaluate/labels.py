"""Names beside the points of a drawing, where they cover the least of what is there."""

from collections.abc import Sequence
from typing import Any

import numpy as np

SIZE = 8
"""Of the letters, in points."""
RINGS = ((7, 3), (7, -9), (0, 9), (0, -15), (7, 14), (7, -20), (16, 22), (16, -30), (0, 26), (0, -34), (30, 3), (30, -9),
         (30, 34), (30, -42), (0, 42), (0, -50), (50, 14), (50, -20), (60, 46), (60, -54))
PLACES = tuple((sign * x, y, side) for x, y in RINGS
               for sign, side in (((1, "left"), (-1, "right")) if x else ((1, "center"),)))
"""Offsets in points from near to far, and which end of the name lies there."""
FAR = 15.0
"""From this distance on, a line leads to the point."""


def name_points(axes: Any, values: np.ndarray, names: Sequence[str], colours: Sequence[str | None] | None = None,
                others: np.ndarray | None = None) -> None:
    """Write a name beside each point (values: [points, 2]) that lies inside the axes' limits, crowded ones first.

    others: points without a name, [points, 2], that names do not cover either.
    """
    axes.figure.draw_without_rendering()
    scale = 72 / axes.figure.dpi
    at, frame = axes.transData.transform(values) * scale, axes.get_window_extent().extents * scale
    inside = [i for i in range(len(names)) if (at[i] >= frame[:2]).all() and (at[i] <= frame[2:]).all()]
    drawn = at[inside] if others is None else np.concatenate([at[inside], axes.transData.transform(others) * scale])
    taken = [np.array([x - 5, y - 5, x + 5, y + 5]) for x, y in drawn]
    near = {i: np.sort(np.linalg.norm(at[inside] - at[i], axis=1))[:3].sum() for i in inside}
    for i in sorted(inside, key=lambda i: near[i]):
        width = _width(names[i])
        boxes = [_box(at[i], place, width) for place in PLACES]
        costs = [sum(_overlap(box, other) for other in taken) + 10 * (_area(box) - _overlap(box, frame)) + 0.05 * rank
                 for rank, box in enumerate(boxes)]
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        _write(axes, values[i], names[i], PLACES[best], colours[i] if colours else None)


def _write(axes: Any, value: np.ndarray, name: str, place: tuple[float, float, str], colour: str | None) -> None:
    x, y, side = place
    style = {"color": colour} if colour else {}
    line = {"arrowprops": {"arrowstyle": "-", "lw": 0.5, "alpha": 0.5, **style}} if np.hypot(x, y) > FAR else {}
    axes.annotate(name, value, (x, y), textcoords="offset points", ha=side, fontsize=SIZE, parse_math=False, **style, **line)


def _width(name: str) -> float:
    """Of a name, in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    plain = name.replace("$", "S") or " "  # a pair of dollars would be read as mathematics
    return float(TextPath((0, 0), plain, size=SIZE, prop=FontProperties()).get_extents().width) + 2


def _box(point: np.ndarray, place: tuple[float, float, str], width: float) -> np.ndarray:
    left = point[0] + place[0] - {"left": 0, "right": width, "center": width / 2}[place[2]]
    return np.array([left, point[1] + place[1] - 2, left + width, point[1] + place[1] + 8])


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod())


def _area(box: np.ndarray) -> float:
    return float((box[2:] - box[:2]).prod())
