"""Extractors by name; building one loads nothing."""

from collections.abc import Callable

from .base import Extractor
from .discriminator import Realness
from .embedded import Embedded, Pixels, Random
from .hps import HPS
from .inception import Inception
from .judged import Judge
from .rewards import Aesthetic, ImageReward
from .towers import Clip, DINOv2, pickscore

EXTRACTORS: dict[str, Callable[[str], Extractor]] = {
    "embedded": lambda device: Embedded(device), "random": lambda device: Random(), "pixels": lambda device: Pixels(),
    "judge": lambda device: Judge(), "discriminator": lambda device: Realness(device),
    "inception": lambda device: Inception(device), "dinov2": lambda device: DINOv2(device=device),
    "clip": lambda device: Clip(device=device),
    "pickscore": pickscore, "hps2": lambda device: HPS("2.0", device), "hps2.1": lambda device: HPS("2.1", device),
    "aesthetic": lambda device: Aesthetic(device), "imagereward": lambda device: ImageReward(device),
}
"""name -> device -> extractor."""
