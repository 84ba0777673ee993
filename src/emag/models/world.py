"""The world of shapes as something to train on: scenes rendered and encoded once, kept in parts beside the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ..worlds.shapes import draw
from ..worlds.shapes import prompts as grammar
from ..worlds.shapes.render import render, to_bytes
from ..worlds.shapes.scene import SIZE
from . import folder
from .patches import PatchAutoencoder
from .phrases import PhraseEncoder
from .pipeline import SmallPipeline
from .shapes import ShapesPipeline

PART, CHUNK, SEED = 4096, 128, 7
"""Scenes in one file, rendered at once, and the seed of all."""

SAMPLES = ("a red circle", "a small blue cross on white", "a large yellow triangle on black", "two green rings",
           "three cyan squares", "a red square and a blue circle", "a green triangle left of a purple ring",
           "a yellow ring above a red cross on grey", "a blue circle inside a yellow square",
           "a purple square larger than a cyan triangle")


class Scenes:
    """Scenes of the world as latents [n, channels, 16, 16] of an autoencoder, with the word ids of their prompts.

    out: folder of the parts; those missing are made. count: scenes, rounded up to whole parts.
    """

    prompts: Sequence[str] = SAMPLES

    def __init__(self, out: Path, count: int, autoencoder: PatchAutoencoder):
        self.autoencoder = autoencoder.eval()
        parts = [load_file(self._part(out, number)) for number in range(-(-count // PART))]
        self.latents, self.ids = (torch.cat([part[name] for part in parts]) for name in ("latents", "ids"))
        self.channels, self.size = self.latents.shape[1], self.latents.shape[2]
        self.empty = torch.zeros(self.ids.shape[1], dtype=torch.long)

    def __len__(self) -> int:
        return len(self.ids)

    def _part(self, out: Path, number: int) -> Path:
        path = out / f"{number:04d}.safetensors"
        if not path.is_file():
            latents, ids = encoded(number, self.autoencoder)
            folder.save_tensors(path, {"latents": latents.bfloat16(), "ids": ids.to(torch.uint8)})
        return path

    def batch(self, pick: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and words of the scenes numbered `pick`."""
        return self.latents[pick].float(), self.ids[pick].long()

    def words(self) -> PhraseEncoder:
        """An untrained encoder of prompts."""
        return PhraseEncoder()

    def pipeline(self, network: Any, words: Any) -> SmallPipeline:
        """A pipeline with the autoencoder that made the latents."""
        return ShapesPipeline.build(network, words, self.autoencoder)

    def facts(self) -> dict[str, Any]:
        """The world, its vocabulary and sizes."""
        return {"world": "shapes", "vocab": list(grammar.VOCABULARY), "max_length": grammar.LENGTH,
                "latent_pixels": SIZE // self.size}


def pictures(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, list[str]]:
    """Pixels [count, 3, 64, 64] in [-1, 1] of scenes of the world, and their prompts."""
    wanted = [draw.request(rng) for _ in range(count)]
    images = to_bytes(render([draw.place(one, rng) for one in wanted]))
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1, [grammar.say(one) for one in wanted]


@torch.no_grad()
def encoded(number: int, autoencoder: PatchAutoencoder) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [4096, channels, 16, 16] and word ids [4096, words] of one part."""
    rng = np.random.default_rng([SEED, number])
    latents, ids = [], []
    for _ in range(PART // CHUNK):
        pixels, prompts = pictures(rng, CHUNK)
        latents.append(autoencoder.encode(pixels.contiguous(memory_format=torch.channels_last)))
        ids.append(torch.tensor([grammar.ids(prompt) for prompt in prompts]))
    return torch.cat(latents), torch.cat(ids)
