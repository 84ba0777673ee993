"""`emag compare`: the table beside the sheet, and what is drawn for every method."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from ...errors import BadValue, Unsupported
from ...shown import shortened
from ..draw import showcase
from ..draw.columns import Column, Outcome, rehearse
from ..draw.sampling import DrawSettings, Job
from .common import table as folded


def columns() -> list[Column]:
    """No guidance, the pipeline's own, and one column per method."""
    return [Column.parse("no guidance: none"), Column.parse("CFG: host"), *showcase.columns()]


def base_of(outcomes: Sequence[Outcome]) -> Outcome:
    """What the images of others are compared with: the pipeline's own guidance where it was drawn, else the first column."""
    return next((one for one in outcomes if is_host(one.column)), outcomes[0])


def is_host(column: Column) -> bool:
    """True for the pipeline's own guidance, at the scale and steps of the command."""
    return not column.rules and column.scale is None and column.steps is None and not column.own_loop


def fitting(pipe: Any, chosen: Sequence[Column], job: Job, settings: DrawSettings) -> tuple[list[Column], dict[str, str]]:
    """The columns that `pipe` can draw at these settings, and why it cannot draw each of the others.

    Raises what a column without a method raises: then it is the prompt or the settings, and no other can be drawn either.
    """
    kept, refused = [], {}
    for column in chosen:
        try:
            rehearse(pipe, column, job, settings)
            kept.append(column)
        except (BadValue, Unsupported) as error:
            if not column.rules and not column.own_loop:
                raise
            refused[column.label] = str(error)
    return kept, refused


def distance(outcome: Outcome, base: Outcome) -> float:
    """Mean absolute difference of the pixels, in percent of their range."""
    pairs = zip(outcome.images, base.images, strict=True)
    return float(np.mean([np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in pairs]) / 2.55)


def rows(outcomes: Sequence[Outcome], base: Outcome) -> list[dict[str, Any]]:
    """Each column as data. times: block evaluations by those of the pipeline's own call. percent: the distance to `base`."""
    return [{"label": one.column.label, "recipe": recipe_of(one.column), "evaluations": one.evaluations,
             "times": one.evaluations / one.plain.evaluations if one.plain else None, "seconds": one.seconds,
             "percent": distance(one, base), "base": base.column.label} for one in outcomes]


def table(outcomes: Sequence[Outcome], base: Outcome) -> Table:
    """Cost of each column, beside the pipeline's own guidance whether or not it was drawn, and its distance to `base`."""
    guides = base.plain is not None and base.plain.guides
    own = "CFG" if guides else "host"
    name = own if is_host(base.column) else shortened(base.column.label, 16)
    made = folded("guidance", "recipe", "block evaluations", f"x {own}", "seconds", f"% from {name}")
    made.columns[0].no_wrap, made.columns[0].min_width = False, 12
    for row in rows(outcomes, base):
        made.add_row(row["label"].replace(",", ", "), row["recipe"], str(row["evaluations"]),
                     "" if row["times"] is None else f"{row['times']:.2f}", f"{row['seconds']:.1f}",
                     "identical" if row["percent"] == 0 else f"{row['percent']:.1f}")
    return made


def recipe_of(column: Column) -> str:
    """The names of what a column is made of."""
    solver = [column.solver.name] if column.solver else []
    return " ".join([*(rule.name for rule in column.rules), *(corrector.name for corrector in column.correctors), *solver])
