"""Seeds: whole numbers of 64 bits, one a random stream."""

import re
from typing import Any

from ..errors import BadValue

LARGEST = 2**64 - 1
MOST = 100_000
"""Seeds of one command, and images of one call for images: `emag run` makes more, and keeps count of them."""


def is_seed(value: Any) -> bool:
    """True for a whole number that a generator takes as it is."""
    return type(value) is int and 0 <= value <= LARGEST


def read_seeds(text: str) -> list[int]:
    """Seeds from "8", "8-11" or "8,13". Raises `BadValue` for what cannot be read, is out of range, or is too many."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,40})(?:-([0-9]{1,40}))?\s*", part)
        if not match:
            raise BadValue(f"cannot read the seeds {text[:60]!r}; write 8, 8-11 or 8,13")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise BadValue(f"the seeds {part.strip()} end before they begin; write {last}-{first}")
        if last > LARGEST:
            raise BadValue(f"the seed {last} has more than 64 bits: seeds go from 0 to {LARGEST}")
        if last - first >= MOST - len(seeds):
            raise BadValue(f"{text[:60]} are more than {MOST} seeds: name fewer, or make so many images with emag run")
        seeds += range(first, last + 1)
    return seeds
