"""`emag run`: many images for an evaluation, into a folder that can be finished later."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ...errors import BadValue
from .common import app, err, out

Engine = Annotated[str | None, typer.Option(help="local, or ray (pip install emag\\[ray]); default: the spec's, or local.")]
Images = Annotated[int | None, typer.Option(min=1, help="Images of each recipe; default: the spec's.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: the spec's.")]


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="YAML file: model, prompts or classes, images, recipes, ...")],
    folder: Annotated[str | None, typer.Option("--out", "-o", help="Run folder, path or URL; default: the spec's.")] = None,
    images: Images = None, device: Device = None, engine: Engine = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per device.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make one batch of each recipe, keep nothing, and print "
                                          "what the run would take.")] = False,
) -> None:
    """Make the images of a spec. Give the same command again to finish a run that was killed, or to add images."""
    with evaluation():
        from ..evaluate.run import run as make
        from ..evaluate.spec import read_spec
    asked = read_spec(spec, images, device)
    if dry_run:
        _show_plan(replace(asked, out=folder or asked.out), workers)
        return
    with _bar() as begun:
        made = make(asked, folder, engine, workers, begun)
    out.print(f"{made.spec.total} image(s) of each of {len(made.recipes())} recipe(s) in {made.url}", highlight=False)


@contextmanager
def evaluation() -> Iterator[None]:
    """Around imports of what evaluation needs: says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise BadValue(f"{error.name} is not installed: pip install emag[eval]") from None


class _Speed(ProgressColumn):
    """Images per second of this command; those of an earlier one do not count."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "")


@contextmanager
def _bar() -> Iterator[Callable[[int, int], Callable[[int], None]]]:
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, speed_estimate_period=300) as bar:
        def begun(done: int, total: int) -> Callable[[int], None]:
            task = bar.add_task("images", total=total, completed=done)
            return lambda images: bar.advance(task, images)

        yield begun


def _show_plan(spec: Any, workers: int | None) -> None:
    from ..evaluate.dry import rehearse

    start = time.perf_counter()
    lines = rehearse(spec, workers)
    table = Table("recipe", "images left", "block evaluations an image", "seconds an image", box=None)
    for line in lines:
        table.add_row(line.recipe, str(line.images), str(line.evaluations), f"{line.seconds:.3g}")
    out.print(table)
    total = sum(line.images * line.seconds for line in lines) / lines[0].workers
    out.print(f"about {total / 60:.1f} minutes with {lines[0].workers} worker(s), going by one batch of each recipe "
              f"({time.perf_counter() - start:.0f} s)", highlight=False)
