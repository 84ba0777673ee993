"""`emag reproduce`: a published experiment, its numbers beside the published ones."""

from typing import Annotated, Any

import typer
from rich.table import Table

from . import common as shared
from .bars import images_bar
from .common import command, err, out
from .common import table as folded
from .outputs import check_run_out
from .run import Engine


@command("emag reproduce emag-table2 --check", "emag reproduce emag-dit --reference in256.npz --images 5000",
         kept="finished batches are kept; the same command goes on where it was", needs=("eval",),
         without=("device",))
def reproduce(
    name: Annotated[str, typer.Argument(metavar="PROTOCOL", help="emag-table2 or emag-dit.")],
    check: Annotated[bool, typer.Option("--check", help="Run the whole chain on the embedded model, with few images and "
                                        "random features: all but the numbers.")] = False,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Folder or hub id, instead of the protocol's.")] = None,
    loading: shared.Loading = shared.ANY,
    captions: Annotated[str | None, typer.Option(help="COCO's captions_val2014.json, or a caption a line.")] = None,
    reference: Annotated[str | None, typer.Option(help="npz with mu and sigma of the real images.")] = None,
    folder: Annotated[str | None, typer.Option("--out", "-o", help="Run folder or URL; default: runs/PROTOCOL.")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="These rows only. Repeat. Others can be added later.")] = None,
    images: Annotated[int | None, typer.Option(min=2, help="Fewer images: the numbers are then not comparable.")] = None,
    engine: Engine = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per device.")] = None,
    device: Annotated[str, typer.Option(help="Of the metrics: cpu, cuda, ...")] = "cpu",
    as_json: shared.Json = False,
) -> None:
    """Run a published protocol and show its numbers beside the published ones. It says first all that is missing.

    Give the same command again to finish one that was killed.
    """
    from ..evaluate.protocol import read
    from ..evaluate.reproduce import reproduce as make

    asked = read(name)
    asked = (asked.check() if check else asked).changed(model, recipe or (), images, **loading.given)
    place = folder or f"runs/{name}{'-check' if check else ''}"
    check_run_out(place)
    with images_bar() as begun:
        found = make(asked, place, captions, reference, check, device, engine, workers, begun)
    if as_json:
        shared.show_json([{**one.data, "published": asked.value(one.recipe, one.metric)} for one in found])
        return
    out.print(_table(asked, found))
    _remarks(asked, read(name).run["images"], check)


def _table(asked: Any, found: list[Any]) -> Table:
    table = folded("metric", "recipe", "published", "here", "95 % interval", "images")
    for one in sorted(found, key=lambda one: asked.metrics.index(one.metric)):
        known = asked.value(one.recipe, one.metric)
        table.add_row(one.metric, one.recipe, "" if known is None else f"{known:g}", f"{one.value:.4g}",
                      f"{one.low:.4g} to {one.high:.4g}", str(one.n))
    return table


def _remarks(asked: Any, images: int, check: bool) -> None:
    out.print(f"{asked.title}. Published: {asked.source}", style="dim")
    if check:
        out.print("The chain works. This was a check on the embedded model with random features: its numbers mean nothing.")
        return
    for note in asked.notes:
        err.print(f"- {note}", style="dim")
    if asked.run["images"] != images:
        err.print(f"- {asked.run['images']} images, not {images}: FID depends on their number, so do not compare.")
