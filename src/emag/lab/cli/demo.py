"""`emag demo`: the embedded model under every guidance, a sheet per class."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ...errors import BadValue
from . import common as shared
from .common import check_out, command, out
from .common import table as folded
from .compare import draw, drawn

STEPS = 28
COLUMNS = (
    "no guidance: none",
    "CFG: host",
    "EMAG query: emag",
    "EMAG map: emag,variant=map",
    "EMAG + APG: emag apg",
    "EMAG + CADS: cads emag",
    "weak query: emag=0",
    "weak map: emag=0,variant=map",
)


@command("emag demo", "emag demo --classes frog,truck -o out/demo",
         kept="sheets that are finished are kept in {folder}; the same command starts again")
def demo(
    folder: shared.Out = Path("out/demo"),
    classes: Annotated[str, typer.Option(help="Classes, separated by commas.")] = "ship,automobile,horse,airplane",
    seeds: shared.Seeds = "8-11", cell: Annotated[int, typer.Option(min=16, help="Pixels per image.")] = 128,
    as_json: shared.Json = False,
) -> None:
    """Sheets of the same seeds under no guidance, CFG, EMAG and its combinations, and of the weak branch alone."""
    from ...models.tiny import GUIDANCE_SCALE
    from ..draw.columns import Column
    from ..draw.sampling import DrawSettings, jobs

    check_out(folder)
    names, numbers = [name.strip() for name in classes.split(",") if name.strip()], shared.seeds_of(seeds)
    if not names:
        raise BadValue("name at least one class, e.g. --classes ship,frog")
    work = jobs([f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names], [], numbers)
    pipe = shared.open_pipeline("tiny")
    outcomes = drawn(pipe, [Column.parse(text) for text in COLUMNS], work, DrawSettings(STEPS), len(numbers))
    for i, name in enumerate(names):
        part = slice(i * len(numbers), (i + 1) * len(numbers))
        draw([_part(outcome, part) for outcome in outcomes], work[part], folder / f"{name}.png",
             f"tiny: {name}, CFG scale {GUIDANCE_SCALE:g}, {STEPS} steps, same seeds in every column", cell)
    if as_json:
        shared.show_json({"sheets": [str(folder / f"{name}.png") for name in names], "columns": _rows(outcomes)})
        return
    out.print(_table(outcomes))
    out.print(f"{len(names)} sheets in {folder}: {', '.join(f'{name}.png' for name in names)}")


def _part(outcome: Any, part: slice) -> Any:
    return replace(outcome, images=outcome.images[part], records=outcome.records[part])


def _rows(outcomes: list[Any]) -> list[dict[str, Any]]:
    from .every import is_host

    base = next(outcome.evaluations for outcome in outcomes if is_host(outcome.column))
    return [{"label": one.column.label, "evaluations": one.evaluations, "over": one.evaluations / base - 1,
             "picks": picks(one), "effect": sum(s.effect for s in one.stats) / len(one.stats) if one.stats else 0.0}
            for one in outcomes]


def _table(outcomes: list[Any]) -> Table:
    table = folded("guidance", "block evaluations", "over CFG", "picks (block: times)", "effect")
    for row in _rows(outcomes):
        table.add_row(row["label"], str(row["evaluations"]), f"{row['over']:+.1%}", row["picks"],
                      f"{row['effect']:.3f}" if row["effect"] else "")
    return table


def picks(outcome: Any) -> str:
    """How often each block was picked, over all images and steps."""
    chosen = [block for stats in outcome.stats for row in stats.picks if row for block in row]
    return ", ".join(f"{block}: {chosen.count(block)}" for block in sorted(set(chosen)))
