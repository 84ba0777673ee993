"""Scores of images against a reference: what a look at both gives should be alike."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..errors import BadValue
from ..models.judges import needs
from .judged import scaled_to
from .plain import Operator, check_pixels, edges


@dataclass(frozen=True, eq=False)
class Alike:
    """Minus the mean squared distance of what a look at the image gives to what it gives of a reference, at most 0.

    look: images [batch, 3, height, width] in [0, 1] -> anything [batch, ...], differentiable: a network's depth or features,
    edges, colours. The reference, [1 or batch, 3, height, width] in [0, 1], is brought to the size of the images. It is
    looked at at each call, in the view of the image where `augment` of `energy` asks for views.
    """

    reference: torch.Tensor
    look: Operator

    name: ClassVar[str] = "alike"

    def __post_init__(self) -> None:
        check_pixels(f"the reference of {self.name}", self.reference, (3,))
        if not callable(self.look):
            raise BadValue(f"a look is a function of images, got {type(self.look).__name__}")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.look(fitted(self.reference, images))
        seen = self.look(images)
        if seen.shape[1:] != wanted.shape[1:] or seen.shape[:1] != images.shape[:1]:
            raise BadValue(f"a look at {len(images)} images gave {list(seen.shape)}, and {list(wanted.shape)} of the "
                           "reference: it must give [batch, ...] of one shape")
        return -(seen - wanted).square().flatten(1).mean(1)

    def viewed(self, view: Operator) -> "Alike":
        """The same for images that are seen in a view."""
        return replace(self, reference=view(self.reference))


@dataclass(frozen=True, eq=False)
class Perceptual:
    """Minus a perceptual distance to a reference, [1 or batch, 3, height, width] in [0, 1], brought to the images' size.

    distance: (images, references), both [batch, 3, height, width] in [-1, 1] -> [batch] or [batch, 1, 1, 1]; None is LPIPS
    of the package lpips.
    """

    reference: torch.Tensor
    distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    name: ClassVar[str] = "lpips"

    def __post_init__(self) -> None:
        check_pixels(f"the reference of {self.name}", self.reference, (3,))
        if self.distance is None:
            object.__setattr__(self, "distance", _lpips())

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        assert self.distance is not None
        if isinstance(self.distance, torch.nn.Module):
            self.distance.to(images.device)
        reference = fitted(self.reference, images).expand_as(images)
        return -self.distance(images.float() * 2 - 1, reference * 2 - 1).flatten()

    def viewed(self, view: Operator) -> "Perceptual":
        """The same for images that are seen in a view."""
        return replace(self, reference=view(self.reference))


def colours(images: torch.Tensor) -> torch.Tensor:
    """The colours of images [batch, 3, height, width], [batch, 3, 8, 8]: means over an 8 x 8 grid of parts."""
    return torch.nn.functional.adaptive_avg_pool2d(images.float(), 8)


def as_they_are(images: torch.Tensor) -> torch.Tensor:
    """The images themselves."""
    return images


LOOKS: dict[str, Operator] = {"pixels-of": as_they_are, "colours-of": colours, "edges-of": edges}
"""What can be alike, by the names of scores: each a look at an image, and a file of the reference behind a colon."""


def read_reference(path: str) -> torch.Tensor:
    """An image file as [1, 3, height, width] in [0, 1]. Raises `BadValue` where there is none."""
    try:
        with Image.open(Path(path).expanduser()) as image:
            array = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it is no image"
        raise BadValue(f"cannot read the reference image {path!r}: {reason}") from None
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255


def fitted(reference: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The reference at the size, on the device and in the numbers of the images, in [0, 1]."""
    if len(reference) not in (1, len(images)):
        raise BadValue(f"a score has {len(reference)} references for {len(images)} images: give one for all, or one each")
    return scaled_to(reference.to(images), images.shape[-2:]).clamp(0, 1)


@lru_cache(maxsize=1)
def _lpips() -> Any:
    def build() -> Any:
        import lpips

        with torch.inference_mode(False):
            return lpips.LPIPS(net="alex", verbose=False).eval().requires_grad_(False)

    return needs(build, "LPIPS", "lpips")
