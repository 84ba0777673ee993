"""Scores of images [batch, 3, height, width] in [0, 1] that need no network: distances, colour, edges.

Each is a value that is called with images and gives one number for each [batch], at most 0; higher is better. Distances are
means over the pixels that count, so that a strength means the same at every size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch.nn import functional

from ..errors import BadValue

Operator = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Distance:
    """Minus the mean squared distance of pixels to a reference: -mean m (x - r)^2 / mean m.

    With a mask it is inpainting: the pixels where the mask is 1 are known, the others free. `operate` is what both are seen
    through (a blur, a smaller size): the reference is then of what it gives, and so is the mask.

    reference: [1 or batch, 3, height, width] in [0, 1]. mask: [1 or batch, 1 or 3, height, width] in [0, 1]; None is all.
    """

    reference: torch.Tensor
    mask: torch.Tensor | None = None
    operate: Operator | None = None

    name: ClassVar[str] = "distance"

    def __post_init__(self) -> None:
        check_pixels("the reference of a distance", self.reference, (3,))
        if self.mask is not None:
            check_pixels("the mask of a distance", self.mask, (1, 3))
            if not bool((self.mask.flatten(1).sum(1) > 0).all()):
                raise BadValue("the mask of a distance is 0 everywhere: where it is 1, pixels are held to the reference")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        seen = images if self.operate is None else self.operate(images)
        reference = self.reference.to(seen)
        if seen.shape[1:] != reference.shape[1:] or len(reference) not in (1, len(seen)):
            raise BadValue(f"the reference of a distance is {list(reference.shape)}, and the images are {list(seen.shape)}: "
                           "give one of their size, one for all or one each")
        mask = torch.ones_like(seen[:1, :1]) if self.mask is None else self.mask.to(seen)
        weights = mask.expand(len(mask), 3, *seen.shape[2:])
        squares = ((seen - reference).square() * weights).flatten(1).sum(1)
        return -squares / weights.flatten(1).sum(1)

    def viewed(self, view: Operator) -> "Distance":
        """The same for images that are seen in a view: the reference and the mask are seen so, too."""
        if self.operate is not None:
            return self
        return replace(self, reference=view(self.reference), mask=None if self.mask is None else view(self.mask))


@dataclass(frozen=True)
class Colour:
    """Minus the squared distance of the mean colour to (red, green, blue), each in [0, 1], averaged over the channels."""

    red: float
    green: float
    blue: float

    name: ClassVar[str] = "colour"

    def __post_init__(self) -> None:
        for value in (self.red, self.green, self.blue):
            if not 0 <= value <= 1:
                raise BadValue(f"a colour is red:green:blue, each in [0, 1], e.g. colour:0.9:0.1:0.1, got {value}")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        wanted = images.new_tensor([self.red, self.green, self.blue])
        return -(images.mean((2, 3)) - wanted).square().mean(1)


@dataclass(frozen=True)
class Edges:
    """Minus the squared distance of the mean edge strength to `amount`: |Sobel gradient| of the grey image, 0 is flat."""

    amount: float = 0.0

    name: ClassVar[str] = "edges"

    def __post_init__(self) -> None:
        if not 0 <= self.amount < float("inf"):
            raise BadValue(f"the amount of edges must be at least 0, got {self.amount}")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return -(edges(images).mean((1, 2, 3)) - self.amount).square()


def edges(images: torch.Tensor) -> torch.Tensor:
    """Edge strength [batch, 1, height, width] of images [batch, 3, height, width]: the length of the Sobel gradient."""
    grey = functional.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = grey.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    found = functional.conv2d(grey, torch.stack([across, across.T])[:, None])
    # 1e-6: a root of 0 has no gradient
    return (found.square().sum(1, keepdim=True) + 1e-6).sqrt()


def check_pixels(what: str, tensor: torch.Tensor, channels: tuple[int, ...]) -> None:
    """Raise `BadValue` for what is no picture of so many channels with values in [0, 1]. what: it in words."""
    if not isinstance(tensor, torch.Tensor) or tensor.ndim != 4 or tensor.shape[1] not in channels:
        raise BadValue(f"{what} must be a tensor [1 or batch, {' or '.join(map(str, channels))}, height, width], got "
                       f"{list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__}")
    if not bool(((tensor >= 0) & (tensor <= 1)).all()):
        raise BadValue(f"{what} must lie in [0, 1]")
