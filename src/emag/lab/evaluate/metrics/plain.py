"""A folder of images that no run made, measured as every FID tool does: it is one recipe, and nothing is written there.

Captions, for metrics that read the prompt: NAME.txt beside NAME.png, or one metadata.jsonl or metadata.csv at the top with
the columns file_name and text (or caption, or prompt). The name of a subfolder is the class of the images in it.
"""

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import BadValue
from ..folder import RUN, RunFolder
from ..pictures import read_rgb
from ..prompt_file import rows_of
from ..prompts import TEXTS, read_prompts

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
CAPTIONS = ("metadata.jsonl", "metadata.csv")


def folder_of(url: str) -> Any:
    """A run folder, or a plain folder of images. Raises `BadValue` where it is neither."""
    path = Path(url).expanduser()
    if "://" in url or (path / RUN).exists() or not path.is_dir():
        return RunFolder(url)
    return PlainFolder(path)


class PlainFolder:
    """The images below a folder, hidden ones left out, in the order of their paths; read as metrics read a `RunFolder`."""

    storage = None
    """There is no place for features or results."""

    def __init__(self, path: Path):
        """Raises `BadValue` where there is no image."""
        self.path, self.url = path, str(path)
        self.files = sorted(_images(path), key=lambda one: one.relative_to(path).as_posix())
        if not self.files:
            raise BadValue(f"{path} is no run folder (it has no {RUN}) and has no image ({', '.join(FORMATS)})")

    def recipes(self) -> list[str]:
        """One recipe: the name of the folder."""
        return [self.path.absolute().name or self.url]

    def index(self, recipe: str) -> Any:
        """The columns of a run's index that metrics read. Raises `BadValue` where some images have captions and some not."""
        import pyarrow as pa

        prompts = self.captions
        lacking = [self._name(one) for one in self.files if self._name(one) not in prompts]
        if prompts and lacking:
            raise BadValue(f"{len(lacking)} of {len(self.files)} images in {self.path} have no caption, first {lacking[0]}: "
                           "give one to all, or to none")
        kinds = [one.parent.name if one.parent != self.path else None for one in self.files]
        return pa.table({"number": list(range(len(self.files))), "class": pa.array(kinds, pa.string()),
                         "prompt": pa.array([prompts.get(self._name(one)) for one in self.files], pa.string()),
                         "sha256": [hashlib.sha256(one.read_bytes()).hexdigest() for one in self.files]})

    def images(self, recipe: str, batch: int = 256, limit: int | None = None) -> Iterator[np.ndarray]:
        """The images in order, uint8 [n, height, width, 3], as many of one size as follow each other, `batch` at most."""
        held: list[np.ndarray] = []
        for file in self.files[:limit]:
            pixels = np.asarray(read_rgb(file.read_bytes(), str(file), (FORMATS[file.suffix.lower()],)))
            if held and (len(held) == batch or held[0].shape != pixels.shape):
                yield np.stack(held)
                held = []
            held.append(pixels)
        yield np.stack(held)

    @cached_property
    def captions(self) -> dict[str, str]:
        """Captions by the path of the image below the folder; empty where there are none. Raises `BadValue`."""
        lists = [name for name in CAPTIONS if (self.path / name).is_file()]
        if len(lists) > 1:
            raise BadValue(f"{self.path} has {' and '.join(lists)}; keep one")
        if lists:
            return self._listed(lists[0])
        beside = {self._name(one): one.with_suffix(".txt") for one in self.files}
        return {name: _caption(path) for name, path in beside.items() if path.is_file()}

    def _listed(self, name: str) -> dict[str, str]:
        file = self.path / name
        rows = rows_of(str(file), file.read_bytes())
        texts = [one.text for one in read_prompts(str(file))]
        odd = next((row.place for row in rows if not isinstance(row.cells.get("file_name"), str)), None)
        if odd:
            raise BadValue(f"{odd} of {file} has no file_name; its columns are file_name and one of {', '.join(TEXTS)}")
        return {str(row.cells["file_name"]): text for row, text in zip(rows, texts)}

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()


def _images(path: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(path, onerror=_refused):
        folders[:] = [one for one in folders if not one.startswith(".")]
        yield from (Path(place, name) for name in names if name[0] != "." and Path(name).suffix.lower() in FORMATS)


def _caption(path: Path) -> str:
    texts = [one.text for one in read_prompts(str(path))]
    if len(texts) != 1:
        raise BadValue(f"{path} has {len(texts)} lines; the caption of an image is one")
    return texts[0]


def _refused(error: OSError) -> None:
    raise BadValue(f"cannot read {error.filename}: {error.strerror}")
