"""A small convolutional network that tells pictures of a model from real ones: the judge of single natural pictures."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from ..errors import BadValue
from ..files import parsed
from .classifier import pixels
from .folder import first_line

FOLDER = Path(__file__).parent / "weights" / "discriminator"
WEIGHTS, CARD = "discriminator.safetensors", "discriminator.json"
GROUPS = 8
"""Of channels that a norm makes alike in strength; within one they keep what they are to each other."""
LEAST = 16
"""Smallest height and width: the last of three halvings keeps two cells."""


class Discriminator(nn.Module):
    """Four 3x3 convolutions, three of which halve the image, the mean over all places, one linear layer to one logit.

    Norms look at one image alone, so its logit does not depend on the batch. Any image size from 16 pixels on.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 64, 64), dropout: float = 0.2):
        super().__init__()
        sizes = (3, *widths)
        self.body = nn.Sequential(*(layer for at, (a, b) in enumerate(pairwise(sizes)) for layer in (
            nn.Conv2d(a, b, 3, stride=2 if at else 1, padding=1), nn.GroupNorm(GROUPS, b), nn.SiLU())))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [n, 3, h, w] in [-1, 1] -> logit of being real [n]; 0 is not told from real."""
        return self.head(self.dropout(self.body(images).mean(dim=(2, 3))))[:, 0]

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images [n, 3, h, w] -> fp32 [n]: the mean over each image and its mirror image."""
        x = pixels(images)
        return (self(x) + self(x.flip(-1))) / 2


@dataclass(frozen=True)
class Learned:
    """What a discriminator learned from. model: whose pictures. seed, images: of the run, whose numbers below `images`
    it was trained or tried on. jpeg: quality of the real pictures as stored, 0 without loss. size: height and width."""

    model: str
    seed: int
    images: int
    jpeg: int
    size: int


def as_stored(images: np.ndarray, jpeg: int) -> torch.Tensor:
    """uint8 images [n, h, w, 3] as the real ones were stored, [n, 3, h, w]: through JPEG of this quality, 0 as they are.

    Without that a network would learn to see the compression, which no generated picture has.
    """
    if jpeg:
        images = np.stack([_compressed(image, jpeg) for image in images])
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def _compressed(image: np.ndarray, quality: int) -> np.ndarray:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(sink, formats=["JPEG"]))


def load_discriminator(folder: Path = FOLDER) -> tuple[Discriminator, Learned]:
    """The trained network, on the CPU in fp32, and what it learned from. Raises `BadValue` for missing or damaged files."""
    _present(folder)
    try:
        card = parsed((folder / CARD).read_bytes())
        model = Discriminator(tuple(card["settings"]["widths"]))
        model.load_state_dict({name: value.float() for name, value in load_file(folder / WEIGHTS).items()})
        return model.eval().to(memory_format=torch.channels_last), _learned(card["learned"])
    except Exception as error:  # whatever a damaged file makes torch or safetensors say
        raise BadValue(f"discriminator folder {folder} cannot be read: {first_line(error)}") from error


def _learned(data: Mapping[str, Any]) -> Learned:
    return Learned(model=str(data["model"]), **{key: int(data[key]) for key in ("seed", "images", "jpeg", "size")})


def discriminator_digest(folder: Path = FOLDER) -> str:
    """First 8 hex digits of the sha256 of weights and card. Raises `BadValue` where there are none."""
    _present(folder)
    return hashlib.sha256((folder / WEIGHTS).read_bytes() + (folder / CARD).read_bytes()).hexdigest()[:8]


def _present(folder: Path) -> None:
    missing = [name for name in (WEIGHTS, CARD) if not (folder / name).is_file()]
    if missing:
        raise BadValue(f"discriminator folder {folder} lacks {', '.join(missing)}; train one with "
                       "python -m emag.lab.train.discriminator")
