"""`emag show` and `emag again`: what made a PNG, and the same PNG once more."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import images, remake
from ..errors import BadValue
from ..sampling import sample
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
    """Make a PNG again from its own record: byte-identical on the same machine and versions; exit code 1 if it is another.

    The record remembers the whole batch the image was made in; that batch is run again, and its row written.
    """
    record, there = images.read_with_image(image)
    try:
        rules = remake.check(record)
    except BadValue as error:
        raise BadValue(f"{image} cannot be made again: {error}") from None
    images.check_folder(folder)
    for source in remake.sources(record):
        say(f"{image} names {source}, which is loaded now")
    for package in remake.older(record):
        say(f"made with {package}: the picture may differ")
    made, now = _drawn(record, rules, device, offload)
    path = images.keep(made, folder, now)
    if not images.same_pixels(made, there):
        out.print(f"{path}: NOT identical to {image}{_why(record, now)}", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1)
    same = "byte-identical" if path.read_bytes() == image.read_bytes() else "every pixel is the same, the file is not,"
    out.print(f"{path}: {same} to {image}", highlight=False, markup=False, soft_wrap=True)


def _drawn(record: dict[str, Any], rules: Any, device: str | None, offload: str | None) -> tuple[Any, dict[str, Any]]:
    """The image of a record once more, and the record that it gets now."""
    source = {key: record["model"].get(key) for key in ("dtype", "revision", "lora")}
    pipe = shared.open_pipeline(record["model"]["model"], device, offload=offload, **source)
    remake.fit(pipe, record)
    with shared.progress(1, "again") as (on_step, _), remake.refused():
        made, run = sample(pipe, record["call"], record["seeds"], rules, on_step, record.get("conditions"))
    if record["row"] >= len(made):
        raise BadValue(f"the record names row {record['row']}, and {len(made)} image(s) were made")
    return images.picture(made[record["row"]]), {**(run.record or {}), "row": record["row"]}


def say(text: str) -> None:
    """A line on standard error."""
    err.print(f"emag: {text}", highlight=False, markup=False, soft_wrap=True)


def _why(record: dict[str, Any], now: dict[str, Any]) -> str:
    differing = [*remake.differences(record, now), *remake.older(record)]
    return f" ({', '.join(differing)} differ)" if differing else ""


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)
