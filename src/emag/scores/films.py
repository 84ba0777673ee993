"""Scores of videos [batch, 3, frames, height, width] in [0, 1]: those of some of their frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core import Score
from ..errors import BadValue


@dataclass(frozen=True, eq=False)
class OfFrames:
    """The mean over some frames of a score of images. A host that decodes videos decodes no more than these frames need.

    frames: their numbers, from 0; negative ones count from the end.
    """

    score: Score
    frames: tuple[int, ...] = (0,)

    name: ClassVar[str] = "frames"

    def __post_init__(self) -> None:
        if not self.frames or not all(isinstance(at, int) for at in self.frames):
            raise BadValue(f"frames are whole numbers, at least one, got {self.frames!r}")

    def __call__(self, films: torch.Tensor) -> torch.Tensor:
        if films.ndim != 5:
            raise BadValue(f"frames are of videos [batch, 3, frames, height, width], got {list(films.shape)}")
        return self.of([films[:, :, place(at, films.shape[2])] for at in self.frames])

    def of(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """The score [batch] of these frames, each [batch, 3, height, width], in their order."""
        return torch.stack([self.score(image) for image in images]).mean(0)


def place(at: int, count: int) -> int:
    """The number of a frame among `count`, counted from 0. Raises `BadValue` for one that is not there."""
    found = at + count if at < 0 else at
    if not 0 <= found < count:
        raise BadValue(f"there is no frame {at} in a video of {count}")
    return found
