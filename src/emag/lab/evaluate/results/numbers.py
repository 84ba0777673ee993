"""What the results page is made of, as data."""

from dataclasses import dataclass, field
from functools import cached_property
from math import log
from typing import Any

from ....errors import BadValue
from ..metrics.bootstrap import Estimate
from ..metrics.paired import holm, p_of_interval

LEVEL = 0.05
"""Of the p below which a difference is clear."""
OVER_REFERENCE = ("recall", "coverage")
"""Older runs have intervals of these over the reference images: their n is not that of the images made."""


@dataclass(frozen=True)
class World:
    """The right images of a recipe against true scenes of their prompts. spread: of x, y and the radius over the truth's.
    differ: parameters that differ, by an exact test with Holm's correction."""

    right: int
    spread: tuple[float, float, float]
    frechet: float
    precision: float
    recall: float
    differ: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """Something asked of the runs, and the pairs of recipes whose difference in these metrics answers it."""

    question: str
    pairs: tuple[tuple[str, str], ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Changed:
    """Images whose verdict a recipe changed from what `base` has: how many it mended and broke, and the first of each."""

    recipe: str
    base: str
    mended: int
    broken: int
    shown: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Row:
    """One recipe. setting: its short form. images: finished. wanted: asked for. emag: whether EMAG is among its rules.

    seconds: per image, median over batches. evaluations: of blocks, per image. values: by metric. minus: differences to
    other recipes, by their names, then by metric. best: whether a sweep chose the setting; None without a sweep.
    tried: the settings of the sweep and their values of the metric that chose. plain: the pipeline's own guidance alone.
    steps: where they are the recipe's own. world: against the truth, where images were judged.
    """

    name: str
    setting: str
    emag: bool
    images: int
    wanted: int
    seconds: Estimate | None = None
    evaluations: float | None = None
    values: dict[str, Estimate] = field(default_factory=dict)
    minus: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    best: bool | None = None
    tried: tuple[tuple[str, float], ...] = ()
    plain: bool = False
    steps: int | None = None
    world: World | None = None

    @property
    def measured(self) -> int:
        """How many images its values are of; 0 where it has none."""
        return max((one.n for name, one in self.values.items() if not name.endswith(OVER_REFERENCE)), default=0)


@dataclass(frozen=True)
class Metric:
    """What measured it, and whether more is better."""

    version: str
    higher: bool | None


@dataclass(frozen=True)
class Results:
    """All of the page. against: the recipe that others are compared with. run, machine, sweep: facts by name.

    again: the commands that make everything again. questions: what is to be answered. changed: verdicts that changed.
    """

    against: str
    run: dict[str, Any]
    machine: dict[str, Any]
    metrics: dict[str, Metric]
    rows: tuple[Row, ...]
    sweep: dict[str, Any] | None = None
    again: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    changed: Changed | None = None

    def __post_init__(self) -> None:
        if self.against not in (row.name for row in self.rows) or not self.base.values:
            known = ", ".join(row.name for row in self.rows if row.values) or "none"
            raise BadValue(f"recipe {self.against!r}, which the others are compared with, is not measured; measured: "
                           f"{known}. Give emag metrics RUN --against {self.against}, or name another with --against")

    @property
    def base(self) -> Row:
        """The recipe that others are compared with."""
        return next(row for row in self.rows if row.name == self.against)

    @property
    def images(self) -> int:
        """Images per recipe in every comparison."""
        return self.base.measured

    @property
    def compared(self) -> list[Row]:
        """Rows measured over as many images as the base, in order."""
        return [row for row in self.rows if row.measured == self.images]

    @property
    def judged(self) -> list[str]:
        """Metrics of which more, or less, is better."""
        return [name for name, one in self.metrics.items() if one.higher is not None]

    def differences(self, row: Row, base: str) -> dict[str, Estimate]:
        """Differences of a row to another recipe, over as many images as all else; none where they were not measured so."""
        found = row.minus.get(base, {}) if row.measured == self.images else {}
        counts = {name: row.values[name].n for name in found if name in row.values}
        return {name: one for name, one in found.items() if one.n == counts.get(name)}

    @cached_property
    def corrected(self) -> dict[tuple[str, str, str], float]:
        """p of each difference by (recipe, base, metric), corrected by Holm for all that are held against the base.

        All metrics count: a recipe is called better where any of them is, so each is a further chance of a false alarm.
        """
        found: dict[tuple[str, str, str], float] = {}
        for base in dict.fromkeys(base for row in self.rows for base in row.minus):
            held = {(row.name, base, metric): one for row in self.rows for metric, one in self.differences(row, base).items()
                    if metric in self.judged}
            values = [p_of_interval(one.value, one.low, one.high, one.n) if one.p is None else one.p
                      for one in held.values()]
            found |= dict(zip(held, holm(values)))
        return found

    def clear(self, row: Row, base: str, metric: str) -> bool:
        """Whether a difference is told from none: by its interval, and by its p after the correction."""
        one = row.minus[base][metric]
        return (one.low > 0 or one.high < 0) and self.corrected[row.name, base, metric] < LEVEL

    def as_costly(self, row: Row) -> Row | None:
        """The row of the pipeline's own guidance, by its number of steps, whose evaluations come nearest to a row's.

        None for these themselves, and where none was made with other steps.
        """
        ladder = [one for one in self.compared if one is self.base or (one.plain and one.steps)]
        known = {one.name: log(one.evaluations) for one in ladder if one.evaluations}
        if len(known) < 2 or row.name in known or not row.evaluations:
            return None
        wanted = log(row.evaluations)
        return min(ladder, key=lambda one: abs(known.get(one.name, 1e9) - wanted))

    @property
    def left_out(self) -> list[Row]:
        """Rows with fewer images, or more: they are compared with nothing."""
        return [row for row in self.rows if row.measured != self.images]


def over_reference(results: Results) -> bool:
    """Whether there are intervals over reference images."""
    return any(one.n != results.images for row in results.compared for name, one in row.values.items()
               if name.endswith(OVER_REFERENCE))
