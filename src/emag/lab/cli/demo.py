"""`emag demo`: the embedded models under every guidance."""

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

AVERAGE = "1-4"
"""At the first, CFG has as many of the eight prompts of shapes right as on average over seeds 0 to 15: 5.25."""


@command("emag demo", "emag demo -m tiny --classes frog,truck -o out/demo",
         kept="sheets that are finished are kept in {folder}; the same command starts again")
def demo(
    folder: shared.Out = Path("out/demo"),
    model: Annotated[str | None, typer.Option("--model", "-m", help="shapes or tiny; default: both.")] = None,
    classes: Annotated[str, typer.Option(help="Classes of tiny, separated by commas.")] = "ship,automobile,horse,airplane",
    seeds: shared.Seeds = AVERAGE, cell: Annotated[int, typer.Option(min=16, help="Pixels per image.")] = 128,
    as_json: shared.Json = False,
) -> None:
    """Sheets of the embedded models under no guidance, CFG, EMAG and its combinations, and of the weak branch alone.

    Those of shapes, drawn with the first seed, say of each image whether it is right and what is wrong. Those of tiny show
    natural pictures, one sheet a class.
    """
    from .demo_shapes import draw_sheet

    check_out(folder)
    names, numbers = [name.strip() for name in classes.split(",") if name.strip()], shared.seeds_of(seeds)
    models = _models(model)
    if not names:
        raise BadValue("name at least one class, e.g. --classes ship,frog")
    made: dict[str, list[Any]] = {}
    if "shapes" in models:
        made["shapes"] = draw_sheet(folder / "shapes.png", numbers[0], STEPS, cell)
    if "tiny" in models:
        made["tiny"] = _natural(folder, names, numbers, cell)
    sheets = [*(["shapes.png"] if "shapes" in made else []), *(f"{name}.png" for name in names if "tiny" in made)]
    if as_json:
        shared.show_json({"sheets": [str(folder / name) for name in sheets],
                          "columns": {name: _rows(outcomes) for name, outcomes in made.items()}})
        return
    for name, outcomes in made.items():
        out.print(_table(name, outcomes))
    out.print(f"{len(sheets)} sheets in {folder}: {', '.join(sheets)}")


def _models(asked: str | None) -> list[str]:
    """The embedded models to show. Raises `BadValue` for another, or one whose weights are not here."""
    from ...hosts.load import MODELS

    known: list[str] = [name for name in ("shapes", "tiny") if name in MODELS]
    if asked is not None and asked not in known:
        raise BadValue(f"emag demo shows {' or '.join(known)}, got --model {asked!r}; for others: emag compare")
    return known if asked is None else [asked]


def _natural(folder: Path, names: list[str], seeds: list[int], cell: int) -> list[Any]:
    """A sheet for each class of tiny; the outcomes of all of them."""
    from ...models.tiny import GUIDANCE_SCALE
    from ..draw.columns import Column
    from ..draw.sampling import DrawSettings, jobs

    work = jobs([f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names], [], seeds)
    pipe = shared.open_pipeline("tiny")
    outcomes = drawn(pipe, [Column.parse(text) for text in COLUMNS], work, DrawSettings(STEPS), len(seeds))
    for i, name in enumerate(names):
        part = slice(i * len(seeds), (i + 1) * len(seeds))
        draw([_part(outcome, part) for outcome in outcomes], work[part], folder / f"{name}.png",
             f"tiny: {name}, CFG scale {GUIDANCE_SCALE:g}, {STEPS} steps, same seeds in every column", cell)
    return outcomes


def _part(outcome: Any, part: slice) -> Any:
    return replace(outcome, images=outcome.images[part], records=outcome.records[part])


def _rows(outcomes: list[Any]) -> list[dict[str, Any]]:
    from .every import is_host

    base = next(outcome.evaluations for outcome in outcomes if is_host(outcome.column))
    return [{"label": one.column.label, "evaluations": one.evaluations, "over": one.evaluations / base - 1,
             "picks": picks(one), "effect": sum(s.effect for s in one.stats) / len(one.stats) if one.stats else 0.0}
            for one in outcomes]


def _table(name: str, outcomes: list[Any]) -> Table:
    table = folded(name, "block evaluations", "over CFG", "picks (block: times)", "effect")
    for row in _rows(outcomes):
        table.add_row(row["label"], str(row["evaluations"]), f"{row['over']:+.1%}", row["picks"],
                      f"{row['effect']:.3f}" if row["effect"] else "")
    return table


def picks(outcome: Any) -> str:
    """How often each block was picked, over all images and steps."""
    chosen = [block for stats in outcome.stats for row in stats.picks if row for block in row]
    return ", ".join(f"{block}: {chosen.count(block)}" for block in sorted(set(chosen)))
