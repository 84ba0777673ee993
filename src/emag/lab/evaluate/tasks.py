"""The images of a run: which number shows what, from which seed, and which are made together."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..draw.sampling import Job
from .prompts import Prompt
from .spec import RunSpec


@dataclass(frozen=True)
class Task:
    """One image number, the same in every recipe."""

    number: int
    prompt: Prompt
    seed: int
    negative: str | None = None

    @property
    def job(self) -> Job:
        """As `emag.lab.draw.sampling` takes it."""
        return Job(self.prompt.text, self.negative, self.seed)


@dataclass(frozen=True)
class Batch:
    """Images made in one call of the pipeline."""

    recipe: str
    numbers: tuple[int, ...]


def seed_of(run_seed: int, number: int) -> int:
    """The seed of an image, of 63 bits, from the run's seed and the image's number alone."""
    return int.from_bytes(hashlib.sha256(f"emag/{run_seed}/{number}".encode()).digest()[:8], "big") >> 1


def task(spec: RunSpec, number: int) -> Task:
    """Image `number`. Prompts take turns, so more images later change none of the first."""
    return Task(number, spec.prompts[number % len(spec.prompts)], seed_of(spec.seed, number), spec.negative)


def batches(spec: RunSpec, missing: Mapping[str, Sequence[int]]) -> list[Batch]:
    """The missing images of each recipe in groups; the cells of `batch_size` numbers are fixed, recipes take turns.

    A resumed run so makes the batches that an undisturbed one makes, and a part of a run holds all recipes alike.
    """
    cells: dict[tuple[int, str], list[int]] = {}
    for name, numbers in missing.items():
        for number in numbers:
            cells.setdefault((number // spec.batch_size, name), []).append(number)
    order = {one.label: at for at, one in enumerate(spec.recipes)}
    return [Batch(name, tuple(cells[cell, name])) for cell, name in sorted(cells, key=lambda key: (key[0], order[key[1]]))]
