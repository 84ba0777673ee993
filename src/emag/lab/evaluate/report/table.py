"""The table of recipes and metrics: values, intervals, the best of each column, differences to a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..metrics.measure import Result
from .stored import COSTS, by_name

VERDICTS = {1: ("better", "▲"), -1: ("worse", "▼"), 0: ("no clear difference", "≈")}


@dataclass(frozen=True)
class Cell:
    """A value as text, its interval, whether it is the best of its column; then the same of its difference to the baseline.

    sort: the value itself. sign: a mark for the verdict. Texts are empty where there is nothing to say.
    """

    sort: float
    value: str
    interval: str
    best: bool
    difference: str = ""
    apart: str = ""
    verdict: str = ""
    sign: str = ""


@dataclass(frozen=True)
class Head:
    """A column: its metric, the direction in which it gets better, its images, and what measured it."""

    metric: str
    higher: bool | None
    images: str
    version: str


@dataclass(frozen=True)
class Table:
    """Columns, and rows of a recipe and a cell (or None) for each column."""

    heads: list[Head]
    rows: list[tuple[str, list[Cell | None]]]
    baseline: str
    paired: bool


def table(results: Sequence[Result], recipes: Sequence[str], baseline: str) -> Table:
    """The results as a table; differences are those measured against `baseline`."""
    own = by_name(results)
    names = list(dict.fromkeys(one.metric for one in results))
    heads = [_head([one for one in own.values() if one.metric == name]) for name in names]
    apart = {(one.recipe, one.metric): one for one in results if one.against == baseline}
    rows = [(recipe, [_cell(own, apart.get((recipe, name)), recipe, name) for name in names]) for recipe in recipes]
    paired = any(one.metric not in COSTS for one in apart.values()) or all(name in COSTS for name in names)
    return Table(heads, rows, baseline, paired)


def verdict(difference: Result) -> int:
    """1 better, -1 worse, 0 where the interval of the difference holds 0, or neither more nor less is better."""
    if difference.higher is None or difference.low <= 0 <= difference.high:
        return 0
    return 1 if (difference.low > 0) == difference.higher else -1


def _head(column: Sequence[Result]) -> Head:
    counts = sorted({one.n for one in column})
    return Head(column[0].metric, column[0].higher, " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))),
                column[0].version)


def _cell(own: dict[tuple[str, str], Result], apart: Result | None, recipe: str, metric: str) -> Cell | None:
    one = own.get((recipe, metric))
    if one is None:
        return None
    column = [other.value for (_, name), other in own.items() if name == metric]
    best = one.higher is not None and one.value == (max if one.higher else min)(column) and len(set(column)) > 1
    cell = Cell(one.value, f"{one.value:.4g}", interval(one) if one.high > one.low else "", best)
    if apart is None:
        return cell
    word, sign = VERDICTS[verdict(apart)]
    ends = interval(apart, "+") if apart.high > apart.low else ""
    return replace(cell, difference=f"{apart.value:+.3g}", apart=ends, verdict=word, sign=sign)


def interval(one: Result, sign: str = "") -> str:
    """The ends of an interval."""
    return f"{one.low:{sign}.3g} to {one.high:{sign}.3g}"
