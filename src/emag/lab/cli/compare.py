"""`emag compare`: the same seeds under several guidances, on one sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import BadValue
from ...shown import shortened
from . import common as shared
from .bars import duration
from .common import command, file_in, lines, out
from .screen import say

WEAKNESS = ("clean: host", "weak, strength 0.5: emag=0,strength=0.5", "weak: emag=0", "weak map: emag=0,variant=map",
            "weak, all blocks: emag=0,statistic=fixed", "weak, jitter 1: emag=0,jitter=1")
MANY = 10
"""Columns from which on it is said how long they take."""


@command('emag compare "a photo of a horse" -c none -c host -c emag=1.5',
         'emag compare "a horse" -c host -c "both: emag=1.5 apg=3" -o out/sheet.png',
         'emag compare "a photo of a horse" --all',
         kept="nothing was written, the sheet comes at the end; the same command starts again")
def compare(
    prompts: shared.Prompts = None,
    columns: Annotated[list[str], typer.Option(
        "--column", "-c", help="A guidance, e.g. 'emag=1.5 apg=4', 'scale=4', 'none', 'host', or 'label: ...'. Repeat.",
    )] = [],  # noqa: B006
    recipe: shared.Recipe = None,
    all_rules: Annotated[bool, typer.Option("--all-rules", help="Every method at its defaults, a row each.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="As --all-rules, with the weak branches beside, and a sheet of "
                                             "how hard their parameters make them: about 20 minutes on two cores.")] = False,
    weak: Annotated[bool, typer.Option("--weak", help="Columns of the weak branch alone, from mild to broken.")] = False,
    more_prompts: shared.Prompt = None, prompts_file: shared.PromptFile = None,
    negative: shared.Negative = None, negatives_file: shared.NegativeFile = None,
    model: shared.Model = "tiny", scale: shared.Scale = None, steps: shared.Steps = None, seeds: shared.Seeds = "8-11",
    out_path: Annotated[Path, typer.Option("--out", "-o", help="Folder for compare.png, or a name that ends in .png.")]
    = Path("out"),
    cell: Annotated[int, typer.Option(min=16, help="Size of one image on the sheet, in pixels.")] = 128,
    height: shared.Height = None, width: shared.Width = None, batch_size: shared.Batch = 4,
    loading: shared.Loading = shared.ANY,
    more: shared.Set = [], as_json: shared.Json = False,  # noqa: B006
) -> None:
    """Draw the same prompts and seeds under several guidances on one labelled sheet, and print what each cost."""
    from ..draw.columns import Column
    from ..draw.sampling import DrawSettings
    from ..draw.showcase import SKIPPED
    from . import every, weakness

    usual = every.columns() if all_rules or everything else []
    chosen = [Column.parse(text) for text in (*columns, *(WEAKNESS if weak else ()))]
    chosen += [Column(recipe, shared.rules_of([], recipe))] if recipe else []
    if not usual and not chosen:
        raise BadValue("name at least one column, e.g. -c none -c host -c emag=1.5, or --weak, or --all-rules")
    work = _jobs([*(prompts or []), *(more_prompts or [])], prompts_file, negative, negatives_file, seeds)
    settings = DrawSettings(steps, scale, height, width, shared.settings_of(more))
    path = file_in(out_path, "compare.png")
    pipe = shared.open_pipeline(model, loading)
    usual, skipped = every.fitting(pipe, usual, work[0], settings)
    chosen = [*usual, *chosen]
    alone = {column.label: one for column in chosen if everything and (one := weakness.weak_of(column))}
    sweeps = weakness.sweep_columns() if everything else []
    outcomes = drawn(pipe, [*chosen, *alone.values(), *sweeps], work, settings, batch_size, usual)
    shown = outcomes[:len(chosen)]
    written = _write(outcomes, shown, alone, work, path, titled(model, work, shown[0]), cell, everything, all_rules)
    if as_json:
        shared.show_json({"sheets": [str(one) for one in written], "columns": every.rows(shown, every.base_of(shown))})
        return
    out.print(every.table(shown, every.base_of(shown)))
    if everything:
        out.print(weakness.sweep_table(outcomes[len(chosen) + len(alone):], every.base_of(shown)))
    for name, reason in {**skipped, **SKIPPED}.items() if usual else ():
        out.print(f"{name}: not drawn, {reason}")
    for sheet_path in written:
        out.print(sheet_path)


def _jobs(given: list[str], file: Path | None, negative: list[str] | None, negatives_file: Path | None,
          seeds: str) -> list[Any]:
    from ..draw.sampling import jobs

    negatives = lines(negative or [], negatives_file, "negative prompt") if negative or negatives_file else []
    return jobs(lines(given, file, "prompt"), negatives, shared.seeds_of(seeds))


def drawn(pipe: Any, columns: Sequence[Any], work: list[Any], settings: Any, batch_size: int,
          ready: Sequence[Any] = ()) -> list[Any]:
    """The outcome of every column, behind a progress bar; for many of them it is said early how long they take. ready: those
    that were rehearsed before."""
    from ..draw.columns import rehearse, run

    for column in (one for one in columns if one not in ready):  # what one of them cannot do is told before any is drawn
        rehearse(pipe, column, work[0], settings)
    outcomes: list[Any] = []
    calls = -(-len(work) // batch_size)
    with shared.progress(len(columns) * calls, "comparing") as (on_step, finished):
        for column in columns:
            outcomes.append(run(pipe, column, work, settings, batch_size, on_step))
            finished(len(outcomes) * calls)
            if len(outcomes) == 3 and len(columns) >= MANY:
                left = max(one.seconds for one in outcomes) * (len(columns) - 3)
                say(f"{len(columns)} guidances of {len(work)} image(s) each: about {duration(left)}")
    return outcomes


def titled(model: str, work: Sequence[Any], outcome: Any) -> str:
    """What a sheet is of: prompts, model, the pipeline's own scale, steps."""
    prompts = list(dict.fromkeys(job.prompt for job in work))
    said = f'"{shortened(prompts[0], 80)}"' if len(prompts) == 1 else f"{len(prompts)} prompts"
    plain = outcome.plain
    known = [f"scale {plain.scale:g}"] if plain and plain.scale is not None else []
    return ", ".join([said, shortened(model, 60), *known, *([f"{plain.steps} steps"] if plain else [])])


def _write(outcomes: list[Any], shown: list[Any], alone: dict[str, Any], work: list[Any], path: Path, title: str,
           cell: int, everything: bool, all_rules: bool) -> list[Path]:
    """The sheets of a comparison."""
    from ...records.png import write
    from ..draw.sheets import sheet
    from . import every, weakness

    if not everything:
        return [draw(shown, work, path, title, cell, across=not all_rules)]
    base = every.base_of(shown)
    held = {outcome.column.label: outcome for outcome in outcomes}
    blank: list[Any] = [None] * len(work)
    rows = [[*one.images, *(held[alone[one.column.label].label].images if one.column.label in alone else blank)]
            for one in shown]
    heads = [*names_of(work), *(f"weak {name}" for name in names_of(work))]
    record = {**base.records[0], "row": 0, "unrecorded": ["the other images of this sheet"]}
    names = [one.column.label for one in shown]
    beside = path.with_name(f"{path.stem}-weakness.png")
    sweeps = outcomes[len(shown) + len(alone):]
    return [write(sheet(rows, heads, names, f"methods, and their weak branches on the right: {title}", cell), path, record),
            write(weakness.sweep_sheet(sweeps, base, cell, title), beside, record)]


def names_of(work: Sequence[Any]) -> list[str]:
    """A short name of each image: its prompt, where there are several, and its seed."""
    several = len({job.prompt for job in work}) > 1
    return [(f"{shortened(job.prompt, 28) or '(empty)'} " if several else "") + f"seed {job.seed}" for job in work]


def draw(outcomes: list[Any], work: list[Any], path: Path, title: str, cell: int, across: bool = True) -> Path:
    """Write the sheet of some outcomes, guidances across or down; it carries the records of all its images."""
    from ...records.png import write
    from ..draw.sheets import sheet

    names, labels = [outcome.column.label for outcome in outcomes], names_of(work)
    images = [list(outcome.images) for outcome in outcomes]
    if across:
        page = sheet([list(row) for row in zip(*images, strict=True)], names, labels, title, cell)
    else:
        page = sheet(images, labels, names, title, cell)
    record = {**outcomes[0].records[0], "row": 0, "unrecorded": ["the other images of this sheet"],
              "columns": [outcome.records[0]["rules"] for outcome in outcomes]}
    return write(page, path, record)
