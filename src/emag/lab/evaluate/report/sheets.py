"""Sheets of a report: the same images of all recipes side by side, as data URIs."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from ....errors import BadValue
from ..folder import RunFolder


@dataclass(frozen=True)
class Shown:
    """An image of a sheet. small: fewer pixels than the cell, to be enlarged without smoothing to `width`."""

    uri: str
    width: int
    height: int
    small: bool


@dataclass(frozen=True)
class Line:
    """One image number: what was asked for, and its image by each recipe; None where that is not finished."""

    number: int
    prompt: str
    seed: int
    images: list[Shown | None]


def sheet(run: RunFolder, rows: int, cell: int = 128) -> list[Line]:
    """The first `rows` image numbers that any recipe has finished, images about `cell` pixels wide."""
    tables = {name: {row["number"]: row for row in run.index(name).select(["number", "prompt", "seed"]).to_pylist()}
              for name in run.recipes()}
    known = {number: row for table in tables.values() for number, row in table.items()}
    return [Line(number, known[number]["prompt"], known[number]["seed"],
                 [_read(run, name, number, cell) if number in table else None for name, table in tables.items()])
            for number in sorted(known)[:rows]]


def shown(image: Image.Image, cell: int) -> Shown:
    """An image as a data URI: small ones as they are, others reduced to the cell."""
    factor = cell // max(image.size)
    if factor >= 1:
        return Shown(_uri(image, "PNG"), image.width * factor, image.height * factor, True)
    reduced = image.copy()
    reduced.thumbnail((2 * cell, 2 * cell), Image.Resampling.LANCZOS)
    scale = cell / max(reduced.size)
    return Shown(_uri(reduced, "JPEG"), round(reduced.width * scale), round(reduced.height * scale), False)


def _read(run: RunFolder, recipe: str, number: int, cell: int) -> Shown | None:
    try:
        return shown(run.image(recipe, number), cell)
    except BadValue:  # damaged or gone: emag verify says so
        return None


def _uri(image: Image.Image, kind: str) -> str:
    sink = io.BytesIO()
    image.save(sink, format=kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(sink.getvalue()).decode()}"
