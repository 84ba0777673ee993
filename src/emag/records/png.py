"""Images on disk: PNGs that carry the record of how they were made."""

import hashlib
import io
import itertools
import json
import os
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ..errors import BadValue
from ..files import check_folder, claim, drafted, parsed, whole
from . import record as records

KEY = "emag"
GRAPH = "prompt"
"""Where ComfyUI keeps the graph that made a picture."""
PIXELS = 1 << 27
"""Pixels of the largest picture that we open."""
SLUG = 60
"""Bytes of a prompt in a file name: with the rest, a name fits every file system."""


def save(images: Any, folder: str | Path, record: dict[str, Any], rows: Sequence[int] | None = None) -> list[Path]:
    """Write PIL images (or arrays [n, h, w, 3] in [0, 1]) of one call as PNGs; image i carries `record` and row i.


    rows: of the images in the call, where these are not all. Names tell prompt, seed and a hash of the record. A picture
    never replaces another one: where the name is taken by one of other pixels, this one's ends in -2, -3, ...; the same
    picture is not written twice. Raises `BadValue` where the disk refuses; every file that is there is whole.
    """
    folder = check_folder(folder)
    pictures = [picture(image) for image in images]
    return [keep(picture, folder, {**record, "row": row})
            for row, picture in zip(rows or range(len(pictures)), pictures, strict=True)]


def keep(image: Image.Image, folder: Path, record: dict[str, Any]) -> Path:
    """Write one PNG under the first of its names that is free, or that holds this very picture and record."""
    with drafted(folder) as draft:
        _put(image, draft, record)
        for path in names(folder, record):
            if claim(draft, path) or has_record(path, record, image):
                return path
    raise AssertionError  # there is no last name


def rows_of(images: Any, made: Any) -> tuple[list[Any], list[int]]:
    """`images` as a list, and which of those that a call `made` they are. Raises `BadValue` where that cannot be told.

    An image is known by itself, not by its looks; as many as were made are taken for all of them, in order.
    """
    given = [images] if isinstance(images, Image.Image) or getattr(images, "ndim", 4) == 3 else list(images)
    held = [] if made is None else list(made)
    found = [next((row for row, one in enumerate(held) if _is(image, one)), None) for image in given]
    if None not in found:
        return given, [int(row) for row in found if row is not None]
    if not held or len(given) == len(held):
        return given, list(range(len(given)))
    raise BadValue(f"which of the {len(held)} images of the latest call this is cannot be told: give images as the pipeline "
                   "returned them, out.images or some of them")


def _is(image: Any, other: Any) -> bool:
    """True for one object, or one piece of memory: a part of an array is a new object each time it is taken."""
    if image is other:
        return True
    if isinstance(image, Image.Image) or type(image) is not type(other):
        return False
    import numpy as np

    return bool(np.shares_memory(np.asarray(image), np.asarray(other)))


def write(image: Image.Image, path: Path, record: dict[str, Any]) -> Path:
    """Write one PNG with its record under a name that the user gave, in the place of what is there."""
    with whole(path) as draft:
        _put(image, draft, record)
    return path


def _put(image: Image.Image, draft: Path, record: dict[str, Any]) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, json.dumps(record, sort_keys=True, ensure_ascii=False))
    image.save(draft, format="PNG", pnginfo=info)


def read_record(path: str | Path) -> dict[str, Any]:
    """The record in a PNG, its types checked. Raises `BadValue` where there is none, or one that is damaged."""
    return read_with_image(path)[0]


def read_with_image(path: str | Path) -> tuple[dict[str, Any], Image.Image]:
    """The record in a PNG, and its picture. Raises `BadValue`."""
    image = read_image(path)
    text = getattr(image, "text", {}).get(KEY)
    if text is None:
        raise BadValue(f"{path} carries no emag record; only PNGs written by emag do")
    try:
        return records.checked_record(parsed(text)), image
    except ValueError as error:
        raise BadValue(f"the emag record in {path} is damaged: {error}") from None


def read_graph(path: str | Path) -> dict[str, Any] | None:
    """The graph that a PNG of ComfyUI's carries, in its API form; None where there is none. Raises `BadValue` for damage."""
    text = getattr(read_image(path), "text", {}).get(GRAPH)
    if text is None:
        return None
    try:
        graph = parsed(text)
    except ValueError as error:
        raise BadValue(f"the ComfyUI graph in {path} is damaged: {error}") from None
    if not isinstance(graph, dict):
        raise BadValue(f"the ComfyUI graph in {path} is damaged: it is no object")
    return graph


def read_image(source: str | Path | bytes, name: str = "the picture", formats: tuple[str, ...] = ("PNG",)) -> Image.Image:
    """A picture from a file, or from the bytes of the file `name`, all its pixels read.

    Raises `BadValue` for other formats, more than `PIXELS` pixels, and every kind of damage.
    """
    name = name if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes) and not os.path.isfile(source):
        raise BadValue(f"cannot read {name}: it is no file" if os.path.exists(source) else f"there is no file {name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
                if image.width * image.height > PIXELS:
                    raise BadValue(f"it has {image.width}x{image.height} pixels, at most {PIXELS} are read")
                image.load()
                return image
    except Image.UnidentifiedImageError:
        raise BadValue(f"cannot read {name} as an image: it is no {' or '.join(formats)}") from None
    except Exception as error:  # a decoder meets damage of every kind, and raises as many
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadValue(f"cannot read {name} as an image: {reason}") from None


def has_record(path: Path, record: dict[str, Any], image: Image.Image | None = None) -> bool:
    """True where a file is a whole PNG with this record, and with the pixels of `image` if one is given."""
    try:
        found, there = read_with_image(path)
    except BadValue:
        return False
    same = found == json.loads(json.dumps(record))
    return same and (image is None or same_pixels(there, image))


def same_pixels(one: Image.Image, other: Image.Image) -> bool:
    """True for two pictures that are the same bit for bit."""
    return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()


def saved(folder: Path, record: dict[str, Any]) -> Path | None:
    """The file in `folder` that a record with a row was already written to, if there is one and it is whole."""
    there = itertools.takewhile(lambda path: path.exists(), names(folder, record))
    return next((path for path in there if has_record(path, record)), None)


def names(folder: Path, record: dict[str, Any]) -> Iterator[Path]:
    """The names of one image of a call, in the order in which they are tried."""
    first = folder / name(record, record["row"])
    yield first
    yield from (first.with_name(f"{first.stem}-{count}.png") for count in itertools.count(2))


def name(record: dict[str, Any], row: int) -> str:
    """File name of one image of a call: its prompt, its seed, a hash of the record, its row."""
    call, seeds = record["call"], record["seeds"]
    seed = seeds[min(row, len(seeds) - 1)] if isinstance(seeds, list) else seeds
    bare = {key: value for key, value in record.items() if key != "row"}
    mark = hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()[:8]
    return f"{slug(_prompt(call, row))}_s{seed if seed is not None else 'unknown'}_{mark}_{row:02d}.png"


def slug(prompt: str) -> str:
    """A prompt as a part of a file name: its letters (of every script), marks and digits in lower case, cut short."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", prompt).casefold())
    words = "".join(one if unicodedata.category(one)[0] in "LMN" else " " for one in text).split()
    short = "-".join(words).encode()[:SLUG].decode(errors="ignore").strip("-")
    return short or ("prompt" if prompt.strip() else "unconditional")


def _prompt(call: dict[str, Any], row: int) -> str:
    """The text of one image's condition."""
    prompt = next((call[key] for key in ("prompt", "class_labels") if key in call), "image")
    if isinstance(prompt, (list, tuple)):
        each = call.get("num_images_per_prompt", 1)
        prompt = prompt[min(row // max(each if type(each) is int else 1, 1), len(prompt) - 1)] if prompt else ""
    return str(prompt)


def picture(image: Any) -> Image.Image:
    """A PIL image from one, or from an array [h, w, 1 or 3] in [0, 1]."""
    if isinstance(image, Image.Image):
        return image
    import numpy as np

    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] not in (1, 3):
        raise BadValue('only images can be saved: call the pipeline with output_type="pil" (or "np")')
    return Image.fromarray((array.clip(0, 1) * 255).round().astype("uint8").squeeze())
