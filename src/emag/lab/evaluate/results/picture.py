"""The front as a picture: recipes over two metrics, with their intervals."""

import io
from typing import Any

import numpy as np

from ..labels import name_points
from .numbers import Results, Row
from .verdict import on_front

PAIRS = (("fd", "accuracy"), ("precision", "recall"), ("residual", "correct"))


def pairs(results: Results) -> list[tuple[str, str]]:
    """The pairs of metrics that there are."""
    return [pair for pair in PAIRS if all(name in results.metrics for name in pair)]


def png(results: Results) -> bytes:
    """A panel for each pair of metrics: points with 95 % intervals, the front as a line; below, where most points lie."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = pairs(results)
    crowds = {pair: crowd(results, pair) for pair in found}
    lines = 2 if any(crowds.values()) else 1
    figure, axes = plt.subplots(lines, len(found), figsize=(7.5 * len(found), 6.5 * lines), layout="constrained",
                                squeeze=False)
    for panel, pair in zip(axes[0], found):
        _panel(panel, results, pair)
    for panel, (pair, limits) in zip(axes[1:].flat, crowds.items()):
        _panel(panel, results, pair)
        panel.set(**limits)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names are placed for the panels as they stand now
    for panel, pair in zip(axes[0], found):
        _named(panel, results, pair, crowds[pair])
    for panel, pair in zip(axes[1:].flat, crowds):
        _named(panel, results, pair, {})
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
    return sink.getvalue()


def crowd(results: Results, pair: tuple[str, str]) -> dict[str, tuple[float, float]]:
    """Limits (xlim, ylim) around the recipes that are not far out, where some are: beyond three times the spread of the
    middle half, in either metric. None where none are."""
    at = np.array([_at(row, pair) for row in results.compared if all(name in row.values for name in pair)])
    low, middle, high = np.quantile(at, (0.25, 0.5, 0.75), axis=0)
    near = (np.abs(at - middle) <= 3 * (high - low)).all(1)
    if near.all() or near.sum() < 3:
        return {}
    ends = at[near].min(0), at[near].max(0)
    margin = 0.15 * (ends[1] - ends[0])
    return {name: (float(a), float(b)) for name, a, b in zip(("xlim", "ylim"), ends[0] - margin, ends[1] + margin)}


def _panel(panel: object, results: Results, pair: tuple[str, str]) -> None:
    rows = [row for row in results.compared if all(name in row.values for name in pair)]
    best = sorted(_at(row, pair) for row in rows if row.name in on_front(results, pair))
    panel.plot(*np.array(best).T, "-", color="0.6", zorder=0)  # type: ignore[attr-defined]
    for row in rows:
        x, y = _at(row, pair)
        colour = _colour(results, row)
        spans = [[[one.value - one.low], [one.high - one.value]] for one in (row.values[name] for name in pair)]
        panel.errorbar(x, y, np.abs(spans[1]), np.abs(spans[0]), "o", color=colour, ms=4, lw=0.7)  # type: ignore[attr-defined]
    arrows = ["more is better" if results.metrics[name].higher else "less is better" for name in pair]
    panel.set(xlabel=f"{pair[0]} ({arrows[0]})", ylabel=f"{pair[1]} ({arrows[1]})")  # type: ignore[attr-defined]


def _named(panel: Any, results: Results, pair: tuple[str, str], below: dict[str, tuple[float, float]]) -> None:
    """Names of the points; of those that are drawn larger below, a frame around them instead."""
    rows = [row for row in results.compared if all(name in row.values for name in pair)
            and not (below and all(low <= at <= high for (low, high), at in zip(below.values(), _at(row, pair))))]
    if below:
        (left, right), (low, high) = below["xlim"], below["ylim"]
        panel.plot([left, right, right, left, left], [low, low, high, high, low], ":", color="0.4", lw=1)
        panel.annotate("below", (right, low), (3, -9), textcoords="offset points", fontsize=8, color="0.4")
    name_points(panel, np.array([_at(row, pair) for row in rows]), [row.name for row in rows],
                [_colour(results, row) for row in rows])


def _colour(results: Results, row: Row) -> str:
    return "tab:red" if row.emag else "black" if row.name == results.against else "tab:blue"


def _at(row: Row, pair: tuple[str, str]) -> tuple[float, float]:
    return row.values[pair[0]].value, row.values[pair[1]].value
