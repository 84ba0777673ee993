"""Views of an image: mirrored and shifted at random, each sample by numbers of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...core import Score
from ...errors import BadValue
from ...maths.streams import Streams

FARTHEST = 1 / 8
"""Largest shift, as a share of a side; what leaves on one side enters on the other."""


@dataclass(frozen=True)
class ImageView:
    """mirrored [batch]: whether left and right change places. shifts [batch, 2]: in [-1, 1], in units of the largest."""

    mirrored: torch.Tensor
    shifts: torch.Tensor

    @classmethod
    def drawn(cls, streams: Streams, name: str, batch: int) -> "ImageView":
        """A view for each sample, by its own random numbers."""
        numbers = streams.normal(name, torch.empty(batch, 3))
        return cls(numbers[:, 0] > 0, torch.erf(numbers[:, 1:] / 2**0.5))  # the distribution function: even over [-1, 1]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """`images` [batch or 1, channels, height, width] in this view, [batch, ...]; differentiable."""
        if images.ndim != 4:
            raise BadValue("augment is for images [batch, channels, height, width], and the score is given "
                           f"{list(images.shape)}")
        images = images.expand(len(self.mirrored), *images.shape[1:])
        return torch.stack([self._one(image, at) for at, image in enumerate(images)])

    def _one(self, image: torch.Tensor, at: int) -> torch.Tensor:
        image = image.flip(-1) if self.mirrored[at] else image
        sides = zip(self.shifts[at].tolist(), image.shape[-2:])
        return image.roll([round(share * FARTHEST * side) for share, side in sides], (-2, -1))


def seen(score: Score, view: ImageView) -> Callable[[torch.Tensor], torch.Tensor]:
    """`score` of images in a view. What it compares them to is seen the same way, where it has `viewed(view)`."""
    viewed: Any = getattr(score, "viewed", None)
    own = viewed(view) if viewed else score
    return lambda images: own(view(images))
