"""`emag show` and `emag again`: what made a PNG, and the same PNG once more."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import BadValue
from ...records import png as images
from ...records import recipe
from ...records.record import versions
from ..draw.sampling import sample
from . import common as shared
from .common import app, err, out

Png = Annotated[Path, typer.Argument(help="A PNG written by emag.")]


@app.command()
def show(image: Png, as_json: shared.Json = False) -> None:
    """Print the record in a PNG: model, rules, prompts, seeds, row and versions."""
    record = images.read(image)
    if as_json:
        shared.show_json(record)
        return
    for key, value in record.items():
        out.print(f"[bold]{key}[/bold]: {_short(value)}", highlight=False)


@app.command()
def again(
    image: Png,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the new PNG.")] = Path("out/again"),
    device: shared.Device = None, offload: shared.Offload = None,
) -> None:
    """Make a PNG again from its own record: byte-identical on the same machine and versions.

    The record remembers the whole batch the image was made in; that batch is run again, and its row written.
    """
    record = images.read(image)
    row = record.pop("row")
    if record["unrecorded"]:
        raise BadValue(f"{image} cannot be made again: {', '.join(record['unrecorded'])} could not be recorded")
    images.check_folder(folder)
    rules = recipe.from_data(record["rules"])
    for name, version in versions().items():
        if record["versions"].get(name) != version:
            err.print(f"emag: made with {name} {record['versions'].get(name)}, this is {version}: bytes may differ")
    source = {key: record["model"].get(key) for key in ("dtype", "revision", "lora")}
    pipe = shared.open_pipeline(record["model"]["model"], device, offload=offload, **source)
    with shared.progress(1, "again") as (on_step, _):
        made, run = sample(pipe, record["call"], record["seeds"], rules, on_step, record.get("conditions"))
    folder.mkdir(parents=True, exist_ok=True)
    path = images.write(images.picture(made[row]), folder / images.name(record, row), {**(run.record or {}), "row": row})
    same = path.read_bytes() == image.read_bytes()
    out.print(f"{path}: {'byte-identical' if same else 'NOT identical'} to {image}", highlight=False)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)
