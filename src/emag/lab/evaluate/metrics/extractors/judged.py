"""What the judge of the world of shapes says of each image, as numbers."""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from .....worlds import shapes
from .base import Features, needs

KINDS = ("number", "colour", "shape", "size", "relation", "background")
PARTS = ("residual", "edges", "flat", "ground")
FLOOR = 1e-6
"""Mean squared rest that rounding to bytes leaves: no part is cleaner."""


@cache
def _code() -> str:
    """Hash of the world and its judge: another judge's verdicts are no longer read from a run folder."""
    files = sorted(Path(shapes.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


class Judge:
    """Features of an image and its prompt, [n] each.

    right and each of KINDS: 1 right, 0 wrong, -1 not asked for. extra: objects too many. residual and its parts edges, flat,
    ground: dB of the mean squared value 1, less is cleaner. parameters [n, 7]: 0 where the image is not right.
    """

    @property
    def version(self) -> str:
        """The judge."""
        return f"shapes-judge-{_code()}"

    def check(self) -> None:
        """Raise `BadValue` where scipy is missing."""
        needs(lambda: __import__("scipy"), "the judge of shapes", "emag[eval]")

    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        from .....worlds.shapes.parameters import parameters
        from .....worlds.shapes.prompts import read
        from .....worlds.shapes.verdict import judge

        verdicts, wanted = judge(images, texts), [read(text) for text in texts]
        asked = {"size": [any(kind.size for kind in one.kinds) for one in wanted],
                 "relation": [one.relation is not None for one in wanted],
                 "background": [one.background is not None for one in wanted]}
        found = {name: np.array([getattr(one, name) for one in verdicts], np.int8) for name in ("right", *KINDS)}
        kinds = {name: np.where(asked.get(name, True), values, -1).astype(np.int8) for name, values in found.items()}
        parts = {name: _decibels([getattr(one, name) for one in verdicts]) for name in PARTS}
        return {**kinds, **parts, "extra": np.array([one.extra for one in verdicts], np.float32),
                "parameters": np.nan_to_num(parameters(verdicts)).astype(np.float32)}


def _decibels(squares: Sequence[float]) -> np.ndarray:
    return (10 * np.log10(np.maximum(squares, FLOOR))).astype(np.float32)
