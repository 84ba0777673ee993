"""`emag calibrate`: where in a network a weak branch acts, measured."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .. import recipe
from ..doctor.calibrate import BANDS, Reach, entry, measure
from ..errors import BadValue
from ..files import check_folder, whole
from ..sampling import Job, Settings, arguments
from . import common as shared
from .common import app, out


@app.command()
def calibrate(
    guidance: Annotated[str, typer.Argument(help="A weak branch, e.g. pag=2 or emag=1.5,variant=map.")] = "pag=1.5",
    prompts: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="Prompts or class labels. Repeat.")] = None,
    model: shared.Model = "tiny", steps: shared.Steps = None, scale: shared.Scale = None, seeds: shared.Seeds = "8",
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for entry (JSON) and plot (PNG).")] = Path("out"),
    count: Annotated[int, typer.Option(min=1, help="Blocks in a row that the entry names.")] = 3,
    device: shared.Device = None, dtype: shared.Dtype = None, offload: shared.Offload = None, as_json: shared.Json = False,
) -> None:
    """Measure how far each block's weak prediction moves, and in which frequency band; plot it and write a table entry."""
    rule = recipe.parse(guidance)
    check_folder(folder)
    pipe = shared.open_pipeline(model, device, dtype, offload)
    work = [Job(text, None, seed) for text in prompts or ["a photo of a ship", "a photo of a horse"]
            for seed in shared.seeds_of(seeds)]
    with shared.progress(1, "calibrating") as (on_step, _):
        reach = measure(pipe, rule, _call(pipe, work, Settings(steps, scale)), on_step)
    made = entry(rule, reach, model, count)
    path = folder / f"{rule.name}-{Path(model).name}.json"
    with whole(path) as draft:
        draft.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if as_json:
        shared.show_json(made)
        return
    out.print(_table(reach))
    out.print(f"largest together: blocks {made['values']['layers']}; entry in {path}{_plotted(reach, rule.name, path)}",
              highlight=False)


def _call(pipe: Any, work: list[Job], settings: Settings) -> Any:
    import torch

    def call(pipe: Any) -> None:
        generators = [torch.Generator().manual_seed(job.seed) for job in work]
        try:
            pipe(**arguments(pipe, work, settings), generator=generators)
        except (ValueError, TypeError) as error:
            raise BadValue(f"{type(pipe).__name__} refused the call: {str(error).splitlines()[0]}") from error

    return call


def _table(reach: list[Reach]) -> Table:
    table = Table("block", "effect", "|cond - weak| / |cond|", *BANDS, box=None)
    top = max(one.effect for one in reach)
    for one in reach:
        bar = "#" * round(22 * one.effect / top) if top else ""
        table.add_row(str(one.block), f"{one.effect:.4f}", bar, *(f"{share:.0%}" for share in one.shares))
    return table


def _plotted(reach: list[Reach], name: str, path: Path) -> str:
    """Draw the table, where matplotlib is installed; what to say about it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return " (pip install emag[plot] for a picture)"
    figure = Figure(figsize=(max(5.0, len(reach) / 3), 4), layout="constrained")
    axes, below = figure.subplots(), [0.0] * len(reach)
    for at, band in enumerate(BANDS):
        heights = [one.effect * one.shares[at] for one in reach]
        axes.bar([one.block for one in reach], heights, bottom=below, label=f"{band} frequencies")
        below = [a + b for a, b in zip(below, heights)]
    axes.set(xlabel="block", ylabel="|cond - weak| / |cond|", title=f"{name}: reach of each block, by share of energy")
    axes.legend()
    with whole(path.with_suffix(".png")) as draft:
        figure.savefig(draft, format="png", dpi=110)
    return f", picture in {path.with_suffix('.png')}"
