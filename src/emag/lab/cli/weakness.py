"""The weak branches alone, and how hard each parameter makes them: what one chooses a negative by."""

from dataclasses import replace

from PIL import Image
from rich.table import Table

from ..draw.alone import weak_alone
from ..draw.columns import Column, Outcome
from ..draw.sheets import sheet
from .common import table as folded
from .every import distance

SWEEPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "emag beta": ("emag=0,beta={}", ("0.3", "0.8", "0.95", "0.988", "1")),
    "emag strength": ("emag=0,strength={}", ("0.2", "0.4", "0.6", "0.8", "1")),
    "emag block": ("emag=0,layers={}", ("1", "2", "3", "4", "5")),
    "pag strength": ("pag=0,strength={}", ("0.2", "0.4", "0.6", "0.8", "1")),
    "seg sigma": ("seg=0,sigma={}", ("0.5", "1", "2", "4", "1e6")),
    "erg temperature": ("erg-push=0,tau={}", ("0.7", "0.4", "0.2", "0.1", "0.01")),
}
"""A column per value, from mild to hard."""


def weak_of(column: Column) -> Column | None:
    """The weak branch of a column alone, at scale 0; None where it has none."""
    alone = weak_alone(column.rules)
    return None if alone is None else replace(column, label=f"weak {column.label}", rules=alone)


def sweep_columns() -> list[Column]:
    """One column per value of every sweep."""
    return [Column.parse(f"{name} {value}: {text.format(value)}") for name, (text, values) in SWEEPS.items()
            for value in values]


def sweep_sheet(outcomes: list[Outcome], base: Outcome, cell: int, title: str) -> Image.Image:
    """A row per sweep, the first image under each value, the clean one before them."""
    held = {outcome.column.label: outcome.images[0] for outcome in outcomes}
    rows = [[base.images[0], *(held[f"{name} {value}"] for value in values)] for name, (_, values) in SWEEPS.items()]
    labels = [f"{name} {' '.join(values)}" for name, (_, values) in SWEEPS.items()]
    return sheet(rows, ["clean", "mild", "", "", "", "hard"], labels, f"the weak branch alone, by its parameter: {title}",
                 cell)


def sweep_table(outcomes: list[Outcome], base: Outcome) -> Table:
    """How far each value takes the weak branch from the clean image."""
    held = {outcome.column.label: outcome for outcome in outcomes}
    table = folded("parameter", "value: distance of the weak image to the clean one, % of the range")
    for name, (_, values) in SWEEPS.items():
        table.add_row(name, "  ".join(f"{value}: {distance(held[f'{name} {value}'], base):.1f}" for value in values))
    return table
