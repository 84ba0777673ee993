"""`emag run`: many images for an evaluation, into a folder that can be finished later."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from . import common as shared
from .bars import images_bar
from .common import command, out, table
from .outputs import check_run_out

Engine = Annotated[str | None, typer.Option(help="local, or ray (pip install emag\\[ray]); default: the spec's, or local.")]
Images = Annotated[int | None, typer.Option(min=1, help="Images of each recipe; default: the spec's.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: the spec's.")]


@command("emag run spec.yaml", "emag run spec.yaml -o runs/first --images 1000", "emag run spec.yaml --dry-run",
         "emag run spec.yaml -o runs/main --recipe cfg --recipe emag --images 5000",
         kept="finished batches are kept; the same command goes on where it was", needs=("eval",))
def run(
    spec: Annotated[Path, typer.Argument(help="YAML file: model, prompts or classes, images, recipes, ...")],
    folder: shared.RunOut = None,
    images: Images = None, device: Device = None, engine: Engine = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per device.")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="Only these recipes of the spec. Repeat.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make one batch of each recipe, keep nothing, and print "
                                          "what the run would take.")] = False,
    as_json: shared.Json = False,
) -> None:
    """Make the images of a spec. Give the same command again to finish a run that was killed, or to add images."""
    from ..evaluate.run import run as make
    from ..evaluate.spec import read_spec

    check_run_out(folder)
    asked = read_spec(spec, images, device).only(recipe or ())
    if dry_run:
        _show_plan(replace(asked, out=folder or asked.out), workers, as_json)
        return
    with images_bar() as begun:
        made = make(asked, folder, engine, workers, begun)
    if as_json:
        shared.show_json({"run": made.url, "images": made.spec.total, "recipes": made.recipes()})
        return
    out.print(f"{made.spec.total} image(s) of each of {len(made.recipes())} recipe(s) in {made.url}")


def _show_plan(spec: Any, workers: int | None, as_json: bool) -> None:
    from ..evaluate.dry import rehearse

    start = time.perf_counter()
    lines = rehearse(spec, workers)
    if as_json:
        shared.show_json([asdict(line) for line in lines])
        return
    made = table("recipe", "images left", "block evaluations an image", "seconds an image")
    for line in lines:
        made.add_row(line.recipe, str(line.images), str(line.evaluations), f"{line.seconds:.3g}")
    out.print(made)
    total = sum(line.images * line.seconds for line in lines) / lines[0].workers
    out.print(f"about {total / 60:.1f} minutes with {lines[0].workers} worker(s), going by one batch of each recipe "
              f"({time.perf_counter() - start:.0f} s)")
