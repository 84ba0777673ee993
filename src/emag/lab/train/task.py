"""What a small model is trained on: data as latents and word ids, words to be learnt, and the pipeline that comes out."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ...models.pipeline import SmallPipeline
from ...models.tiny import PixelVAE, TinyPipeline
from ...models.words import WordEncoder, vocabulary
from ..labelled import Images

WORD_DIM, WORDS = 64, 8


class Task(Protocol):
    """channels, size: of one x0 [channels, size, size]. empty: word ids [words] of the empty prompt. prompts: for sheets."""

    channels: int
    size: int
    empty: torch.Tensor
    prompts: Sequence[str]

    def __len__(self) -> int: ...

    def batch(self, pick: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """x0 [n, channels, size, size] in fp32 and word ids [n, words] of the examples numbered `pick` [n]."""

    def words(self) -> Any:
        """An untrained encoder of words."""

    def pipeline(self, network: Any, words: Any) -> SmallPipeline:
        """The pipeline around a network and its words."""

    def facts(self) -> dict[str, Any]:
        """What prompt.json must say, so that the model can be read."""


class Pictures:
    """Pictures by class: pixels in [-1, 1] times `scale`, half of them mirrored if `flip`."""

    channels = 3

    def __init__(self, images: Images, classes: Sequence[str], scale: float, flip: bool):
        self.images, self.classes, self.scale, self.flip = images, tuple(classes), scale, flip
        self.size: int = images.pixels.shape[-1]
        self.prompts: Sequence[str] = self.classes
        self.captions = self.words().ids(self.classes)
        self.empty = self.words().ids([None])[0]

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, pick: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels and captions of the pictures numbered `pick`."""
        pixels = self.images.pixels[pick].float() / 127.5 - 1
        if self.flip:
            mirrored = torch.rand(len(pick), generator=rng) < 0.5
            pixels[mirrored] = pixels[mirrored].flip(-1)
        return pixels * self.scale, self.captions[self.images.labels[pick]]

    def words(self) -> WordEncoder:
        """An untrained encoder of captions."""
        return WordEncoder(vocabulary(self.classes), self.classes, WORDS, WORD_DIM)

    def pipeline(self, network: Any, words: Any) -> SmallPipeline:
        """A pipeline on pixels."""
        return TinyPipeline.build(network, words, PixelVAE(scaling_factor=self.scale, latent_channels=self.channels))

    def facts(self) -> dict[str, Any]:
        """Vocabulary, classes and scale."""
        return {"vocab": vocabulary(self.classes), "max_length": WORDS, "scale": self.scale, "classes": list(self.classes)}
