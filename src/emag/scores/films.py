"""Scores of videos [batch, 3, frames, height, width] in [0, 1]: those of some of their frames."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core import Part, Score
from ..errors import BadValue


@dataclass(frozen=True, eq=False)
class OfFrames:
    """The mean over some frames of a score of images. A host that decodes videos decodes no more than these frames need.

    frames: their numbers, from 0; negative ones count from the end. before: latents before a frame's own that are decoded
    with it: 1 on Wan and 2 on CogVideoX are Frame Guidance's (arXiv 2506.07177), an approximation of the frame wherever
    the decoder looks further back; None, all of them, is the frame itself.
    """

    score: Score
    frames: tuple[int, ...] = (0,)
    before: int | None = None

    name: ClassVar[str] = "frames"

    def __post_init__(self) -> None:
        if not self.frames or not all(isinstance(at, int) for at in self.frames):
            raise BadValue(f"frames are whole numbers, at least one, got {self.frames!r}")
        if self.before is not None and self.before < 1:
            raise BadValue(f"frames are decoded with at least 1 latent before, or None, all, got {self.before}")

    @property
    def part(self) -> Part:
        """What of a video it looks at."""
        return Part(self.frames, self.before)

    def __call__(self, films: torch.Tensor) -> torch.Tensor:
        if films.ndim != 5:
            raise BadValue(f"frames are of videos [batch, 3, frames, height, width], got {list(films.shape)}")
        return self.of(torch.stack([films[:, :, place(at, films.shape[2])] for at in self.frames], 2))

    def of(self, frames: torch.Tensor) -> torch.Tensor:
        """The score [batch] of its frames alone, [batch, 3, as many, height, width], in their order."""
        return torch.stack([self.score(image) for image in frames.unbind(2)]).mean(0)


def place(at: int, count: int) -> int:
    """The number of a frame among `count`, counted from 0. Raises `BadValue` for one that is not there."""
    found = at + count if at < 0 else at
    if not 0 <= found < count:
        raise BadValue(f"there is no frame {at} in a video of {count}")
    return found
