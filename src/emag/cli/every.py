"""`emag compare --all-rules`: what is drawn for every method, and the table beside the sheet."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from .. import showcase
from ..columns import Column, Outcome
from ..errors import Unsupported
from ..hosts.pipeline import guide


def columns() -> list[Column]:
    """No guidance, the pipeline's own, and one column per method."""
    return [Column.parse("no guidance: none"), Column.parse("CFG: host"), *showcase.columns()]


def fitting(pipe: Any, chosen: Sequence[Column]) -> tuple[list[Column], dict[str, str]]:
    """The columns that `pipe` can draw, and why it cannot draw each of the others."""
    kept, refused = [], {}
    for column in chosen:
        try:
            with guide(pipe, *column.rules):
                kept.append(column)
        except Unsupported as error:
            refused[column.label] = str(error)
    return kept, refused


def distance(outcome: Outcome, base: Outcome) -> float:
    """Mean absolute difference of the pixels, in percent of their range."""
    pairs = zip(outcome.images, base.images, strict=True)
    return float(np.mean([np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in pairs]) / 2.55)


def table(outcomes: Sequence[Outcome], base: Outcome) -> Table:
    """Cost of each column and its distance to the pipeline's own guidance."""
    made = Table("guidance", "recipe", "block evaluations per image", "x CFG", "seconds", "% from CFG", box=None)
    for outcome in outcomes:
        far = distance(outcome, base)
        made.add_row(outcome.column.label, recipe_of(outcome.column), str(outcome.evaluations),
                     f"{outcome.evaluations / base.evaluations:.2f}", f"{outcome.seconds:.1f}",
                     "identical" if far == 0 else f"{far:.1f}")
    return made


def recipe_of(column: Column) -> str:
    """The names of what a column is made of."""
    solver = [column.solver.name] if column.solver else []
    return " ".join([*(rule.name for rule in column.rules), *(corrector.name for corrector in column.correctors), *solver])
