"""Images on disk: PNGs that carry the record of how they were made."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from .errors import BadValue
from .files import whole

KEY = "emag"


def save(images: Any, folder: str | Path, record: dict[str, Any], rows: Sequence[int] | None = None) -> list[Path]:
    """Write PIL images (or arrays [n, h, w, 3] in [0, 1]) of one call as PNGs; image i carries `record` and row i.

    rows: of the images in the call, where these are not all. Names tell prompt, seed and a hash of the record, so other
    recipes do not overwrite them.
    """
    folder = check_folder(folder)
    pictures = [picture(image) for image in images]
    folder.mkdir(parents=True, exist_ok=True)
    return [write(picture, folder / name(record, row), {**record, "row": row})
            for row, picture in zip(rows or range(len(pictures)), pictures, strict=True)]


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
    """Write one PNG with its record, to a temporary name first."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, json.dumps(record, sort_keys=True, ensure_ascii=False))
    with whole(path) as draft:
        image.save(draft, format="PNG", pnginfo=info)
    return path


def read(path: str | Path) -> dict[str, Any]:
    """The record in a PNG. Raises `BadValue` where there is none."""
    try:
        with Image.open(path) as image:
            image.load()
            text = getattr(image, "text", {}).get(KEY)
    except FileNotFoundError:
        raise BadValue(f"there is no file {path}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise BadValue(f"cannot read {path} as an image: {error}") from None
    if text is None:
        raise BadValue(f"{path} carries no emag record; only PNGs written by emag do")
    try:
        return _checked(json.loads(text))
    except (json.JSONDecodeError, KeyError, TypeError):
        raise BadValue(f"the emag record in {path} is damaged") from None


def name(record: dict[str, Any], row: int) -> str:
    """File name of one image of a call."""
    call, seeds = record["call"], record["seeds"]
    prompt = next((call[key] for key in ("prompt", "class_labels") if key in call), "image")
    if isinstance(prompt, (list, tuple)):
        prompt = prompt[min(row // int(call.get("num_images_per_prompt", 1)), len(prompt) - 1)]
    seed = seeds[min(row, len(seeds) - 1)] if isinstance(seeds, list) else seeds
    slug = re.sub(r"[^a-z0-9]+", "-", str(prompt).lower()).strip("-")[:40] or "unconditional"
    mark = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
    return f"{slug}_s{seed if seed is not None else 'unknown'}_{mark}_{row:02d}.png"


def check_folder(folder: str | Path) -> Path:
    """`folder` as a path, if it can be written or made. Raises `BadValue` before anything is."""
    folder = Path(folder)
    nearest = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise BadValue(f"cannot write to {folder}: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise BadValue(f"cannot write to {folder}: no permission in {nearest}")
    return folder


def picture(image: Any) -> Image.Image:
    """A PIL image from one, or from an array [h, w, 1 or 3] in [0, 1]."""
    if isinstance(image, Image.Image):
        return image
    import numpy as np

    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] not in (1, 3):
        raise BadValue('only images can be saved: call the pipeline with output_type="pil" (or "np")')
    return Image.fromarray((array.clip(0, 1) * 255).round().astype("uint8").squeeze())


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    for key in ("model", "rules", "call", "seeds", "row", "versions"):
        record[key]
    return record
