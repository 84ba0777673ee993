"""Features of the images of a run, kept in the run folder until the images change."""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....errors import BadValue
from ....records import ranges
from ..pictures import clipped
from .doubts import CLIPPED, refuse_infinite
from .extractors.base import Extractor, Features
from .npz import unpacked

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
        columns = {name: table[name].to_pylist() for name in ("number", "prompt", "class", "sha256")}
        known = table["seed"].to_pylist() if "seed" in table.column_names else [None] * len(table)  # not of a plain folder
        return cls(run, recipe, {**columns, "seed": known})

    def __len__(self) -> int:
        return len(self.columns["number"])

    @property
    def key(self) -> str:
        """Hash of the numbers and the bytes of all images, in order."""
        rows = (f"{number} {sha}" for number, sha in zip(self.columns["number"], self.columns["sha256"]))
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def features(images: Images, extractor: Extractor) -> Features:
    """Features of all images in order of their numbers, read from the run folder where they are there already.

    Raises `BadValue` where they are not finite.
    """
    return _kept(images, extractor) or _made(images, extractor)


def _made(images: Images, extractor: Extractor) -> Features:
    texts = [text or "" for text in images.columns["prompt"]]
    made = extract(images.run.images(images.recipe, BATCH, len(images)), extractor, texts)
    if images.run.storage is not None:
        images.run.storage.write(_file(images, extractor), packed({**made, KEY: np.array(images.key)}))
    return made


def _file(images: Images, extractor: Extractor) -> str:
    version = re.sub(r"[^\w.-]+", "_", extractor.version)
    return f"features/{version}/{images.recipe}.npz"


def _kept(images: Images, extractor: Extractor) -> Features | None:
    """The features in the run folder; None where there are none, or of other images, or the file is damaged."""
    storage, name = images.run.storage, _file(images, extractor)
    try:
        found = unpacked(storage.read(name)) if storage is not None and storage.exists(name) else {}
        key = found.pop(KEY, np.array(""))
        refuse_infinite(found)
    except ValueError:
        return None
    whole = str(key) == images.key and CLIPPED in found and all(len(one) == len(images) for one in found.values())
    return found if whole else None


def extract(batches: Iterable[np.ndarray], extractor: Extractor, texts: Sequence[str]) -> Features:
    """Features of batches of uint8 images [n, h, w, 3], whose prompts are `texts` in turn; and which of them are clipped."""
    found, done = [], 0
    for batch in batches:
        found.append({**extractor(batch, texts[done:done + len(batch)]), CLIPPED: clipped(batch, ranges.CLIPPED)})
        done += len(batch)
    made = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    refuse_infinite(made)
    return made


def packed(arrays: Features) -> bytes:
    """Arrays as the bytes of an npz file."""
    sink = io.BytesIO()
    np.savez(sink, **arrays)  # type: ignore[arg-type]
    return sink.getvalue()
