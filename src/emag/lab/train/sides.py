"""The two sides that a discriminator tells apart: real pictures, and a model's without guidance."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...errors import BadValue
from ...models.discriminator import LEAST, Learned, as_stored
from ..evaluate.folder import RunFolder
from .classifier import read

HELD = 0.2
"""Share of the plain pictures, the last by number, that are kept from training."""
ANY = 1 << 30
"""More labels than any data have: they are not read."""


@dataclass(frozen=True)
class Sides:
    """uint8 pictures [n, 3, size, size] as they were stored; the held ones are never trained on."""

    real: torch.Tensor
    plain: torch.Tensor
    held_real: torch.Tensor
    held_plain: torch.Tensor


def sides(source: Path, plain: str, jpeg: int) -> tuple[Learned, Sides]:
    """The sides, of a folder of real pictures with its own test split and of a run folder. Raises `BadValue`."""
    run = RunFolder(plain)
    name, count = _recipe(run), _finished(run)
    pictures = as_stored(_all(run.images(name)), jpeg)
    size = pictures.shape[-1]
    if pictures.shape[-2] != size or size < LEAST:
        raise BadValue(f"a discriminator learns from square pictures of {LEAST} pixels or more, and those of {plain} are "
                       f"{list(pictures.shape[-2:])}")
    held = max(1, round(count * HELD))
    real, test = (read(source, split, size, ANY).pixels for split in ("train", "test"))
    learned = Learned(str(run.spec.model.id), run.spec.seed, count, jpeg, size)
    return learned, Sides(real, pictures[:-held], test, pictures[-held:])


def _recipe(run: RunFolder) -> str:
    """The only recipe without guidance."""
    found = [one.label for one in run.spec.recipes if one.scale == 1 and not one.rules]
    if len(found) != 1:
        raise BadValue(f"plain pictures are those of one recipe with guidance_scale: 1 and no rules; {run.url} has "
                       f"{', '.join(found) or 'none'}")
    return found[0]


def _finished(run: RunFolder) -> int:
    """How many pictures there are: all of the run's, so that two pictures are left on either side at least."""
    missing = len(run.missing()[_recipe(run)])
    if missing or run.spec.total < 4:
        raise BadValue(f"{missing} of {run.spec.total} pictures of {run.url} are not finished: give emag run first, with 4 "
                       "images or more")
    return run.spec.total


def _all(batches: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(batches))
