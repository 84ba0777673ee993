"""Drawings as inline SVG that takes its ink from the page, so it reads in light and dark."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..labels import name_points
from ..metrics.measure import Result
from ..pareto import front
from .picks import Picks
from .stored import COSTS, by_name

INK = "#012345"
"""A colour that nothing else has; it becomes the colour of the page's text."""
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "emag", "text.parse_math": False, "font.size": 9,
              "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
              **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
BLOCKS = ("#4c8bd6", "#e08a3c", "#3fa673", "#c95c9e", "#9a7be0", "#b8a12f", "#46aeb8", "#d2605a")
POINT, FRONT = "#4c8bd6", "#e08a3c"
PARTNERS = ("accuracy", "hps2.1", "hps2", "clipscore", "evaluations", "seconds")


def pairs(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Metrics to draw against each other: distances against quality and cost, precision against recall."""
    known = {one.metric for one in results}
    heads = [name.removesuffix("fd") for name in dict.fromkeys(one.metric for one in results) if name.endswith("fd")]
    asked = [pair for head in heads for pair in ((f"{head}precision", f"{head}recall"),
                                                 *((f"{head}fd", name) for name in PARTNERS))]
    return [pair for pair in asked if known.issuperset(pair)][:6]


def pareto(results: Sequence[Result], x: str, y: str) -> tuple[str, str] | None:
    """Recipes in two metrics with intervals and their front: SVG, and the same in words; None for fewer than two."""
    own = by_name(results)
    names = [name for name, metric in own if metric == x and (name, y) in own]
    if len(names) < 2:
        return None
    columns = [[own[name, metric] for name in names] for metric in (x, y)]
    values = np.array([[one.value for one in column] for column in columns]).T
    higher = [bool(column[0].higher) for column in columns]
    best = front(values, higher)
    words = f"{y} against {x} of {len(names)} recipes. On the front: {', '.join(np.array(names)[best])}."
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.9), layout="constrained")
        _scatter(figure.subplots(), columns, values, best, higher, names)
        return _svg(figure), words


def picks(found: Picks) -> str:
    """Stacked bars: the share of images that picked each block, by evaluation."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.6), layout="constrained")
        axes, base = figure.subplots(), np.zeros(found.share.shape[1])
        for at, (block, share) in enumerate(zip(found.blocks, found.share)):
            axes.bar(np.arange(len(share)) + 1, share, 0.9, base, color=BLOCKS[at % len(BLOCKS)], label=f"block {block}")
            base = base + share
        axes.set(xlabel="evaluation of the network", ylabel="share of images", ylim=(0, 1), xlim=(0.4, len(base) + 0.6))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside right upper", fontsize=8)
        return _svg(figure)


def _scatter(axes: Any, columns: Sequence[Sequence[Result]], values: np.ndarray, best: np.ndarray, higher: Sequence[bool],
             names: Sequence[str]) -> None:
    low, high = (np.array([[abs(getattr(one, end) - one.value) for one in column] for column in columns])
                 for end in ("low", "high"))
    axes.errorbar(*values.T, xerr=(low[0], high[0]), yerr=(low[1], high[1]), fmt="none", ecolor=INK, alpha=0.3, lw=1)
    line = values[best][values[best][:, 0].argsort()]
    axes.plot(*line.T, "-", color=FRONT, lw=1.5, alpha=0.7, zorder=2)
    axes.plot(*values[~best].T, "o", color=POINT, ms=6)
    axes.plot(*values[best].T, "D", color=FRONT, ms=6)
    axes.margins(0.12)
    axes.set(**{f"{side}label": _label(column[0].metric, up)
                for side, column, up in zip("xy", columns, higher)})
    name_points(axes, values, names)


def _label(metric: str, higher: bool) -> str:
    return f"{COSTS.get(metric, metric)} ({'higher' if higher else 'lower'} is better)"


def _svg(figure: Figure) -> str:
    sink = io.StringIO()
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    figure.savefig(sink, format="svg", metadata=NO_METADATA)
    text = sink.getvalue()
    return text[text.index("<svg"):].replace(INK, "currentColor")


def drawn(results: Sequence[Result], asked: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """The Pareto plots asked for: words to SVG."""
    found = [pareto(results, x, y) for x, y in asked]
    return {words: svg for svg, words in (one for one in found if one is not None)}
