"""Gains over the base against further evaluations, as a picture."""

import io
from typing import Any

import numpy as np

from ..labels import name_points
from .numbers import Results
from .world_page import SAME
from .worth import Gain, asked, gains_of, on_front

SPREAD = 3.0
"""Losses beyond so many times the spread of the middle half are left outside the panel, and named in the table."""
DEAR = 3.0
"""Further evaluations, as a share of the base's, beyond which a recipe is in the table alone."""


def png(results: Results) -> bytes:
    """A panel for each metric: further evaluations across, the gain with its 95 % interval up, the front as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names, gains = asked(results), gains_of(results)
    figure, axes = plt.subplots(1, len(names), figsize=(7.5 * len(names), 6), layout="constrained", squeeze=False)
    drawn = [(panel, name, _panel(panel, gains, name)) for panel, name in zip(axes[0], names)]
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names are placed for the panels as they stand now
    for panel, name, inside in drawn:
        best = on_front(gains, name)
        told = [one for one in inside if one.row.emag or name in one.clear or one in best]
        rest = [_at(one, name) for one in inside if one not in told]
        name_points(panel, np.array([_at(one, name) for one in told]), [one.row.name for one in told],
                    [_colour(one, name) for one in told], np.array(rest).reshape(-1, 2))
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
    return sink.getvalue()


def _panel(panel: Any, gains: list[Gain], metric: str) -> list[Gain]:
    """Draws the points that are near the others; returns them."""
    known = [one for one in gains if metric in one.by and one.more <= DEAR]
    inside = [one for one, near in zip(known, _near(np.array([one.by[metric].value for one in known]))) if near]
    for one in inside:
        x, y = _at(one, metric)
        span = one.by[metric]
        panel.errorbar(x, y, [[y - span.low], [span.high - y]], fmt="o", color=_colour(one, metric), ms=4, lw=0.7)
    # from the base on: what more evaluations can buy at most
    best = [(0.0, 0.0), *(_at(one, metric) for one in on_front(known, metric) if one.more >= -SAME)]
    ends = [*best, (max(100 * one.more for one in known), max(y for _, y in best))]
    panel.plot(*np.array(ends).T, "-", color="0.6", zorder=0, drawstyle="steps-post")
    panel.axhline(0, color="0.8", lw=0.8, zorder=0)
    panel.axvline(0, color="0.8", lw=0.8, zorder=0)
    panel.set(xlabel="further block evaluations, % of the base", ylabel=f"{metric} gained (up is better)")
    return inside


def _near(values: np.ndarray) -> np.ndarray:
    """Which values are not far below the others."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)) if len(values) else (0, 0, 0)
    return middle - values <= SPREAD * max(high - low, 1e-12)


def _at(one: Gain, metric: str) -> tuple[float, float]:
    return 100 * one.more, one.by[metric].value


def _colour(one: Gain, metric: str) -> str:
    return "tab:red" if one.row.emag else "tab:blue" if metric in one.clear else "0.45"
