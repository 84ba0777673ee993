"""Learned scores with a small head: the LAION aesthetic score and ImageReward."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from .....models.judges import REWARD_WORDS, load_aesthetic, load_imagereward, reward
from ..resize import CLIP_MEAN, CLIP_STD, cropped, normalised
from .base import Features
from .towers import Clip


@dataclass
class Aesthetic:
    """score [n], about 1 to 10: sac+logos+ava1-l14-linearMSE on the normalised CLIP ViT-L/14 embedding."""

    device: str = "cpu"

    @cached_property
    def loaded(self) -> tuple[Clip, nn.Module]:
        clip = Clip(device=self.device)
        clip.check()
        return clip, load_aesthetic().to(self.device)

    @property
    def version(self) -> str:
        return f"sac+logos+ava1-l14-linearMSE on {Clip().version.rpartition(' ')[0]}"

    def check(self) -> None:
        _ = self.loaded

    @torch.no_grad()
    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        clip, made = self.loaded
        found = torch.from_numpy(clip(images, texts)["features"]).to(self.device)
        return {"score": made(nn.functional.normalize(found, dim=1))[:, 0].cpu().numpy()}


@dataclass
class ImageReward:
    """score [n], about -2 to 2: ImageReward v1.0, BLIP-large reading image and prompt, standardised as published."""

    device: str = "cpu"
    version: str = "ImageReward-v1.0 clip-crop-pil-bicubic 35 tokens"

    @cached_property
    def loaded(self) -> tuple[nn.ModuleDict, Any]:
        net, tokenizer = load_imagereward()
        return net.to(self.device), tokenizer

    def check(self) -> None:
        _ = self.loaded

    @torch.no_grad()
    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        net, tokenizer = self.loaded
        size = net["vision"].config.image_size
        x = normalised(cropped(images, size), CLIP_MEAN, CLIP_STD).to(self.device)
        words = tokenizer(list(texts), padding="max_length", truncation=True, max_length=REWARD_WORDS, return_tensors="pt")
        return {"score": reward(net, x, words.to(self.device)).cpu().numpy()}
