"""Features of the images of a run, kept in the run folder until the images change."""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....errors import BadValue
from .extractors.base import Extractor, Features

BATCH = 256
KEY = "images_sha256"


@dataclass(frozen=True)
class Images:
    """The finished images of one recipe: their index as columns, and where they are."""

    run: Any
    recipe: str
    columns: dict[str, list[Any]]

    @classmethod
    def of(cls, run: Any, recipe: str, limit: int | None = None) -> "Images":
        """The first `limit` images (None: all). Raises `BadValue` where there are none."""
        table = run.index(recipe).slice(0, limit)
        if not len(table):
            raise BadValue(f"the run has no finished image of recipe {recipe!r}: give emag run first")
        return cls(run, recipe, {name: table[name].to_pylist() for name in ("number", "prompt", "class", "sha256")})

    def __len__(self) -> int:
        return len(self.columns["number"])

    @property
    def key(self) -> str:
        """Hash of the numbers and the bytes of all images, in order."""
        rows = (f"{number} {sha}" for number, sha in zip(self.columns["number"], self.columns["sha256"]))
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def features(images: Images, extractor: Extractor) -> Features:
    """Features of all images in order of their numbers, read from the run folder where they are there already."""
    storage, name = images.run.storage, f"features/{_plain(extractor.version)}/{images.recipe}.npz"
    kept = _kept(storage.read(name)) if storage.exists(name) else None
    if kept is not None and kept.pop(KEY, np.array("")).item() == images.key:
        return kept
    made = extract(images.run.images(images.recipe, BATCH, len(images)), extractor, images.columns["prompt"])
    storage.write(name, packed({**made, KEY: np.array(images.key)}))
    return made


def extract(batches: Iterable[np.ndarray], extractor: Extractor, texts: Sequence[str]) -> Features:
    """Features of batches of uint8 images [n, h, w, 3], whose prompts are `texts` in turn."""
    found, done = [], 0
    for batch in batches:
        found.append(extractor(batch, texts[done:done + len(batch)]))
        done += len(batch)
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def packed(arrays: Features) -> bytes:
    """Arrays as the bytes of an npz file."""
    sink = io.BytesIO()
    np.savez(sink, **arrays)  # type: ignore[arg-type]
    return sink.getvalue()


def _kept(data: bytes) -> Features | None:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception:  # damaged files fail in many ways, and are made again
        return None


def _plain(version: str) -> str:
    return re.sub(r"[^\w.-]+", "_", version)
