"""`emag sweep`: which setting of each recipe is best, at the same number of trials."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ...files import check_folder
from . import common as shared
from .bars import images_bar
from .common import command, out
from .common import table as folded
from .outputs import check_run_out
from .run import Device, Engine, Images


@command("emag sweep spec.yaml --best best.yaml --plot front.png",
         kept="finished trials and batches are kept; the same command goes on where it was", needs=("eval",))
def sweep(
    spec: Annotated[Path, typer.Argument(help="YAML file: a run spec with open values in recipes, and a section sweep.")],
    folder: shared.RunOut = None,
    images: Images = None, device: Device = None, engine: Engine = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per device.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of the trials and their front.")] = None,
    best: Annotated[Path | None, typer.Option(help="YAML to write: a run spec, each recipe at its best.")] = None,
    as_json: shared.Json = False,
) -> None:
    """Try settings of recipes, measure each, and name the best of each and the Pareto front.

    Open values are {grid: [1.25, 1.5]} or {low: 1, high: 3} anywhere in a recipe. Give the same command again to finish a
    sweep that was killed.
    """
    from ..evaluate.sweep.outcome import draw, write_best
    from ..evaluate.sweep.search import sweep as search
    from ..evaluate.sweep.spec import read_sweep

    check_run_out(folder)
    asked = read_sweep(spec, images, device)
    for file in filter(None, (plot, best)):
        check_folder(file.parent)
    with images_bar() as begun:
        found = search(asked, folder, engine, workers, begun)
    if plot:
        draw(found, plot)
    if best:
        write_best(asked, found, best)
    if as_json:
        shared.show_json(found)
    else:
        out.print(_table(found))


def _table(found: dict[str, Any]) -> Table:
    table = folded("trial", "setting", *found["objectives"], "front", "best")
    for trial in found["trials"]:
        cells = [f"{trial['results'][name]['value']:.4g}" for name in found["objectives"]]
        table.add_row(trial["trial"], trial["setting"], *cells, "*" if trial["trial"] in found["front"] else "",
                      "*" if trial["trial"] == found["best"].get(trial["recipe"]) else
                      "given up" if trial["given_up"] else "")
    return table
