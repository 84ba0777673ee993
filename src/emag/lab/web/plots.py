"""What a run did, drawn: the blocks that were picked, and how far each rule moved the prediction, over the steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...engine.stats import Stats

INK, GRID = "#222222", "#dddddd"


def run_figure(stats: Stats, sizes: Mapping[str, Sequence[float | None]]) -> Any:
    """Two panels over the steps: picked blocks, one dot per image, and |after - before| / |before| of each rule."""
    figure = _figure(2)
    picks, moves = figure.subplots(2, 1, sharex=True)
    dots = [(step + 1, block) for step, row in enumerate(stats.picks) if row for block in row]
    picks.scatter([step for step, _ in dots], [block for _, block in dots], s=26, color="#4338ca")
    picks.set(ylabel="picked block", ylim=(-0.5, stats.depth - 0.5), xlim=(0.5, stats.steps + 0.5))
    if not dots:
        picks.text(0.5, 0.5, "no rule here picks a block", ha="center", va="center", transform=picks.transAxes, color=INK)
    for (name, values), mark in zip(sizes.items(), "os^vDPX*" * 2):
        kept = [(step + 1, value) for step, value in enumerate(values) if value is not None]
        moves.plot([step for step, _ in kept], [value for _, value in kept], marker=mark, ms=4, lw=1.3, label=name)
    moves.set(xlabel="step", ylabel="|step of a rule| / |prediction|")
    if sizes:
        moves.legend(fontsize=8)
    return _finished(figure, (picks, moves), whole=(picks,))


def _figure(rows: int) -> Any:
    from matplotlib.figure import Figure  # no pyplot: it would keep every figure

    return Figure(figsize=(6.4, 1.2 + 2.2 * rows), layout="constrained", dpi=110)


def _finished(figure: Any, axes: Sequence[Any], whole: Sequence[Any]) -> Any:
    from matplotlib.ticker import MaxNLocator

    for one in axes:
        one.grid(True, color=GRID, lw=0.6)
        one.set_axisbelow(True)
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
    for one in whole:
        one.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
