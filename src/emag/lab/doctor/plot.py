"""The reach of each block as a picture."""

from collections.abc import Sequence
from typing import Any

from .calibrate import BANDS, Reach


def reach_figure(reach: Sequence[Reach], name: str) -> Any:
    """A matplotlib figure: how far each block's weak prediction moves, by share of energy in each band of frequencies."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(max(6.5, len(reach) / 3), 4), layout="constrained")
    axes, below = figure.subplots(), [0.0] * len(reach)
    for at, band in enumerate(BANDS):
        heights = [one.effect * one.shares[at] for one in reach]
        axes.bar([one.block for one in reach], heights, bottom=below, label=band)
        below = [a + b for a, b in zip(below, heights)]
    axes.set(xlabel="block", ylabel="|cond - weak| / |cond|", title=f"{name}: reach of each block, by share of energy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right upper", title="frequencies")
    return figure
