"""`emag compare`: the same seeds under several guidances, on one sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import showcase
from ..columns import Column, Outcome, run
from ..errors import BadValue
from ..images import check_folder, write
from ..sampling import Job, Settings, jobs
from ..sheets import sheet
from . import common as shared
from . import every, weakness
from .common import app, out
from .generate import lines

WEAKNESS = ("clean: host", "weak, strength 0.5: emag=0,strength=0.5", "weak: emag=0", "weak map: emag=0,variant=map",
            "weak, all blocks: emag=0,statistic=fixed", "weak, jitter 1: emag=0,jitter=1")


@app.command()
def compare(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts, or class labels.")] = None,
    columns: Annotated[list[str], typer.Option(
        "--column", "-c", help="A guidance, e.g. 'emag=1.5 apg=4', 'scale=4', 'none', 'host', or 'label: ...'. Repeat.",
    )] = [],  # noqa: B006
    all_rules: Annotated[bool, typer.Option("--all-rules", help="Every method at its defaults, a row each.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="As --all-rules, with the weak branches beside, and a sheet of "
                                             "how hard their parameters make them.")] = False,
    weak: Annotated[bool, typer.Option("--weak", help="Columns of the weak branch alone, from mild to broken.")] = False,
    prompts_file: Annotated[Path | None, typer.Option("--prompts", help="Text file with one prompt per line.")] = None,
    model: shared.Model = "tiny", scale: shared.Scale = None, steps: shared.Steps = None, seeds: shared.Seeds = "8-11",
    sheet_path: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")] = Path("out/compare.png"),
    cell: Annotated[int, typer.Option(min=16, help="Size of one image on the sheet, in pixels.")] = 128,
    height: shared.Height = None, width: shared.Width = None, batch_size: shared.Batch = 4, device: shared.Device = None,
    dtype: shared.Dtype = None, offload: shared.Offload = None, lora: shared.Lora = None,
    more: shared.Set = [],  # noqa: B006
) -> None:
    """Draw the same prompts and seeds under several guidances on one labelled sheet, and print what each cost."""
    usual = every.columns() if all_rules or everything else []
    chosen = [Column.parse(text) for text in (*columns, *(WEAKNESS if weak else ()))]
    if not usual and not chosen:
        raise BadValue("name at least one column, e.g. -c none -c host -c emag=1.5, or --weak, or --all-rules")
    work = jobs(lines(prompts or [], prompts_file, "prompt"), [], shared.seeds_of(seeds))
    settings = Settings(steps, scale, height, width, shared.settings_of(more))
    if sheet_path.suffix.lower() != ".png":
        raise BadValue(f"the sheet is a PNG: give a name that ends in .png, not {sheet_path.name}")
    check_folder(sheet_path.parent)
    pipe = shared.open_pipeline(model, device, dtype, offload, lora)
    usual, skipped = every.fitting(pipe, usual)
    chosen = [*usual, *chosen]
    alone = {column.label: one for column in chosen if everything and (one := weakness.weak_of(column))}
    sweeps = weakness.sweep_columns() if everything else []
    outcomes = drawn(pipe, [*chosen, *alone.values(), *sweeps], work, settings, batch_size)
    sheet_path.parent.mkdir(parents=True, exist_ok=True)
    shown, base = outcomes[:len(chosen)], _base(outcomes)
    out.print(every.table(shown, base))
    if everything:
        _everything(outcomes, base, len(chosen), alone, sheet_path, cell)
    else:
        draw(shown, work, sheet_path, f"{model}, {len(work)} image(s) per guidance", cell, across=not all_rules)
    for name, reason in {**skipped, **showcase.SKIPPED}.items() if usual else ():
        out.print(f"{name}: not drawn, {reason}", highlight=False)
    out.print(f"{sheet_path}", highlight=False)


def drawn(pipe: Any, columns: Sequence[Column], work: list[Job], settings: Settings, batch_size: int) -> list[Outcome]:
    """The outcome of every column, behind a progress bar."""
    outcomes: list[Outcome] = []
    with shared.progress(len(columns) * -(-len(work) // batch_size), "comparing") as (on_step, finished):
        for column in columns:
            outcomes.append(run(pipe, column, work, settings, batch_size, on_step))
            finished(len(outcomes) * -(-len(work) // batch_size))
    return outcomes


def _base(outcomes: list[Outcome]) -> Outcome:
    """The pipeline's own guidance, where it is among them."""
    plain = (outcome for outcome in outcomes if not outcome.column.rules and outcome.column.scale is None)
    return next(plain, outcomes[0])


def _everything(outcomes: list[Outcome], base: Outcome, count: int, alone: dict[str, Column], path: Path, cell: int) -> None:
    """Every method with its weak branch beside it, and the sheet of sweeps."""
    held = {outcome.column.label: outcome for outcome in outcomes}
    blank: list[Any] = [None] * len(base.images)
    rows = [[*one.images, *(held[alone[one.column.label].label].images if one.column.label in alone else blank)]
            for one in outcomes[:count]]
    heads = [f"seed {i + 1}" for i in range(len(blank))] + [f"weak {i + 1}" for i in range(len(blank))]
    record = {**base.records[0], "row": 0, "unrecorded": ["the other images of this sheet"]}
    names = [one.column.label for one in outcomes[:count]]
    write(sheet(rows, heads, names, "methods and weak branches", cell), path, record)
    beside = path.with_name(f"{path.stem}-weakness.png")
    write(weakness.sweep_sheet(outcomes[count + len(alone):], base, cell), beside, record)
    out.print(weakness.sweep_table(outcomes[count + len(alone):], base))
    out.print(f"{beside}", highlight=False)


def draw(outcomes: list[Outcome], work: list[Job], path: Path, title: str, cell: int, across: bool = True) -> None:
    """Write the sheet of some outcomes, guidances across or down; it carries the records of all its images."""
    rows = [[outcome.images[i] for outcome in outcomes] for i in range(len(work))]
    labels = [f"{job.prompt[:28] or '(empty)'} s{job.seed}" for job in work]
    names = [outcome.column.label for outcome in outcomes]
    if across:
        page = sheet(rows, names, labels, title, cell)
    else:
        page = sheet([list(outcome.images) for outcome in outcomes], labels, names, title, cell)
    record = {**outcomes[0].records[0], "row": 0, "unrecorded": ["the other images of this sheet"],
              "columns": [outcome.records[0]["rules"] for outcome in outcomes]}
    write(page, path, record)
