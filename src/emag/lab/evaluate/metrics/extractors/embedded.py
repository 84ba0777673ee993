"""Extractors that need nothing from outside: the embedded classifier, a random network, and numbers of the pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from .....models import classifier
from .. import pixels
from .base import Features


@dataclass
class Embedded:
    """features [n, 256] and logits [n, 10] of the embedded CIFAR-10 classifier; 32x32 images, never resized; fp32."""

    device: str = "cpu"

    @cached_property
    def loaded(self) -> tuple[classifier.Classifier, dict]:
        model, card = classifier.load_classifier()
        return model.to(self.device), card

    @property
    def version(self) -> str:
        return f"cifar10-classifier-{classifier.weights_digest()}"

    @property
    def classes(self) -> list[str]:
        """Names of the logits."""
        return self.loaded[1]["classes"]

    def check(self) -> None:
        _ = self.loaded

    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        found = self.loaded[0].outputs(images)
        return {"features": found.features.cpu().numpy(), "logits": found.logits.cpu().numpy()}


@dataclass
class Random:
    """features [n, width] of a random convolutional network: tries a chain without weights, and means nothing.

    It reads the mean colour of 8x8 cells, so any size from 8 pixels on will do.
    """

    seed: int = 0
    width: int = 64
    net: torch.nn.Module = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rng = torch.Generator().manual_seed(self.seed)
        self.net = torch.nn.Sequential(torch.nn.Conv2d(3, self.width, 3, padding=1), torch.nn.ReLU(),
                                       torch.nn.Conv2d(self.width, self.width, 3, stride=2), torch.nn.ReLU())
        with torch.no_grad():
            for p in self.net.parameters():
                p.copy_(torch.randn(p.shape, generator=rng) / p[0].numel() ** 0.5)

    @property
    def version(self) -> str:
        return f"random-{self.width}-seed{self.seed}"

    def check(self) -> None:
        pass

    @torch.no_grad()
    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = torch.nn.functional.adaptive_avg_pool2d(x, 8)
        return {"features": self.net(x).mean(dim=(2, 3)).numpy()}


@dataclass
class Pixels:
    """saturation, contrast and high_frequency of each image, [n] each."""

    version: str = "pixels-1"

    def check(self) -> None:
        pass

    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        return {"saturation": pixels.saturation(images), "contrast": pixels.contrast(images),
                "high_frequency": pixels.high_frequency(images)}
