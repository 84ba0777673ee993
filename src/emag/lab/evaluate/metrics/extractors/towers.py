"""Public networks by their hub ids, over transformers: CLIP and its relatives, and DINOv2."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .....models.judges import CLIP, CLIP_WORDS, PICKSCORE, PICKSCORE_WORDS, load_clip
from ..resize import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, cropped, normalised, stretched
from .base import Features, needs


@dataclass
class Clip:
    """features [n, d] (image embedding) and score [n]: the cosine to the prompt times `times` (None: the model's own scale).

    Preprocessing of CLIP: PIL bicubic, shorter side to the model's size, middle square. Prompts are cut at 77 tokens.
    CLIPScore: times=100 and not clamped per image. PickScore: its own model, the tokenizer of laion's CLIP-H.
    """

    model: str = CLIP
    tokenizer: str | None = None
    times: float | None = 100.0
    device: str = "cpu"

    @property
    def version(self) -> str:
        return f"{self.model} clip-crop-pil-bicubic x{'own' if self.times is None else f'{self.times:g}'}"

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        net, tokenizer = load_clip(self.model, self.tokenizer)
        return net.to(self.device), tokenizer

    def check(self) -> None:
        _ = self.loaded

    @torch.no_grad()
    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        net, tokenizer = self.loaded
        x = normalised(cropped(images, net.config.vision_config.image_size), CLIP_MEAN, CLIP_STD).to(self.device)
        words = tokenizer(list(texts), padding=True, truncation=True, max_length=CLIP_WORDS, return_tensors="pt")
        words = words.to(self.device)
        image = net.get_image_features(pixel_values=x).pooler_output.float()
        text = net.get_text_features(**words).pooler_output.float()
        scale = net.logit_scale.exp() if self.times is None else self.times
        score = torch.cosine_similarity(image, text) * scale
        return {"features": image.cpu().numpy(), "score": score.cpu().numpy()}


def pickscore(device: str = "cpu") -> Clip:
    """PickScore: CLIP-H fine-tuned on Pick-a-Pic, the cosine times its own scale (about 100)."""
    return Clip(PICKSCORE, PICKSCORE_WORDS, None, device)


@dataclass
class DINOv2:
    """features [n, d]: the class token of DINOv2. PIL bicubic to 224x224, nothing cut off, as dgm-eval does (FD-DINOv2)."""

    model: str = "facebook/dinov2-large"
    device: str = "cpu"
    size: int = 224

    @property
    def version(self) -> str:
        return f"{self.model} {self.size}-pil-bicubic"

    @cached_property
    def loaded(self) -> Any:
        from transformers import Dinov2Model

        return needs(lambda: Dinov2Model.from_pretrained(self.model).eval().to(self.device), self.model, "transformers")

    def check(self) -> None:
        _ = self.loaded

    @torch.no_grad()
    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        x = normalised(stretched(images, self.size), IMAGENET_MEAN, IMAGENET_STD).to(self.device)
        return {"features": self.loaded(pixel_values=x).pooler_output.float().cpu().numpy()}
