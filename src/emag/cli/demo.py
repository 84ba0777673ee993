"""`emag demo`: the embedded model under every guidance, a sheet per class."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..columns import Column, Outcome
from ..files import check_folder
from ..sampling import Settings, jobs
from . import common as shared
from .common import app, out
from .compare import draw, drawn

SCALE, STEPS = 2.5, 28
COLUMNS = (
    Column("no guidance", scale=1.0),
    Column("CFG"),
    Column.parse("EMAG query: emag"),
    Column.parse("EMAG map: emag,variant=map"),
    Column.parse("EMAG + APG: emag apg"),
    Column.parse("EMAG + CADS: cads emag"),
    Column.parse("weak query: emag=0"),
    Column.parse("weak map: emag=0,variant=map"),
)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the sheets.")] = Path("out/demo"),
    classes: Annotated[str, typer.Option(help="Classes, separated by commas.")] = "ship,automobile,horse,airplane",
    seeds: shared.Seeds = "8-11", cell: Annotated[int, typer.Option(min=16, help="Pixels per image.")] = 128,
) -> None:
    """Sheets of the same seeds under no guidance, CFG, EMAG and its combinations, and of the weak branch alone."""
    check_folder(folder)
    pipe = shared.open_pipeline("tiny")
    names, numbers = [name.strip() for name in classes.split(",") if name.strip()], shared.seeds_of(seeds)
    work = jobs([f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names], [], numbers)
    outcomes = drawn(pipe, COLUMNS, work, Settings(STEPS, SCALE), len(numbers))
    for i, name in enumerate(names):
        part = slice(i * len(numbers), (i + 1) * len(numbers))
        draw([_part(outcome, part) for outcome in outcomes], work[part], folder / f"{name}.png",
             f"tiny: {name}, CFG scale {SCALE}, {STEPS} steps, same seeds in every column", cell)
    out.print(_table(outcomes))
    out.print(f"{len(names)} sheets in {folder}: {', '.join(f'{name}.png' for name in names)}", highlight=False)


def _part(outcome: Outcome, part: slice) -> Outcome:
    return replace(outcome, images=outcome.images[part], records=outcome.records[part])


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("guidance", "block evaluations per image", "over CFG", "picks (block: times)", "effect", box=None)
    base = next(outcome.evaluations for outcome in outcomes if not outcome.column.rules and outcome.column.scale is None)
    for outcome in outcomes:
        stats, total = outcome.stats, outcome.evaluations
        effect = f"{sum(s.effect for s in stats) / len(stats):.3f}" if stats and stats[0].effect else ""
        table.add_row(outcome.column.label, str(total), f"{total / base - 1:+.1%}", picks(outcome), effect)
    return table


def picks(outcome: Outcome) -> str:
    """How often each block was picked, over all images and steps."""
    chosen = [block for stats in outcome.stats for row in stats.picks if row for block in row]
    return ", ".join(f"{block}: {chosen.count(block)}" for block in sorted(set(chosen)))
