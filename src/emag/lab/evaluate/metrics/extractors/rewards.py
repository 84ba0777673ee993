"""Learned scores with a small head: the LAION aesthetic score and ImageReward."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from ..resize import CLIP_MEAN, CLIP_STD, cropped, normalised
from .base import Features, needs
from .hps import weights
from .towers import Clip

AESTHETIC = ("trl-lib/ddpo-aesthetic-predictor", "aesthetic-model.pth")
REWARD = ("THUDM/ImageReward", "ImageReward.pt")
MEAN, STD, WORDS = 0.16717362830052426, 1.0333394966054072, 35
RENAMED = ((r"^patch_embed\.proj\.", "embeddings.patch_embedding."), (r"^cls_token$", "embeddings.class_embedding"),
           (r"^pos_embed$", "embeddings.position_embedding"), (r"^norm\.", "post_layernorm."),
           (r"^blocks\.", "encoder.layers."), (r"\.norm([12])\.", r".layer_norm\1."), (r"\.attn\.qkv\.", ".self_attn.qkv."),
           (r"\.attn\.proj\.", ".self_attn.projection."))
"""Names of the vision weights in ImageReward.pt -> those of transformers."""


def head(width: int) -> nn.Sequential:
    """The linear layers that both scores end in: width -> 1024 -> 128 -> 64 -> 16 -> 1, no nonlinearity."""
    sizes = (width, 1024, 128, 64, 16, 1)
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(a, b), *([nn.Dropout()] if i < 3 else [])]
    return nn.Sequential(*layers).eval()


@dataclass
class Aesthetic:
    """score [n], about 1 to 10: sac+logos+ava1-l14-linearMSE on the normalised CLIP ViT-L/14 embedding."""

    device: str = "cpu"

    @cached_property
    def loaded(self) -> tuple[Clip, nn.Module]:
        clip = Clip(device=self.device)
        clip.check()
        return clip, needs(self._head, "aesthetic score", "huggingface_hub")

    def _head(self) -> nn.Module:
        from huggingface_hub import hf_hub_download

        state = weights(hf_hub_download(*AESTHETIC))
        made = head(768)
        made.load_state_dict({name.removeprefix("layers."): value for name, value in state.items()})
        return made.to(self.device)

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
        return needs(self._build, "ImageReward", "transformers")  # type: ignore[return-value]

    def _build(self) -> tuple[nn.ModuleDict, Any]:
        from huggingface_hub import hf_hub_download
        from transformers import AutoTokenizer, BlipTextConfig, BlipVisionConfig

        vision = BlipVisionConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
                                  image_size=224, layer_norm_eps=1e-6)
        text = BlipTextConfig(hidden_size=768, encoder_hidden_size=1024, num_hidden_layers=12, num_attention_heads=12,
                              intermediate_size=3072)
        state, net = weights(hf_hub_download(*REWARD)), network(vision, text)
        net.load_state_dict(renamed(state, net))
        return net.to(self.device), AutoTokenizer.from_pretrained("bert-base-uncased")

    def check(self) -> None:
        _ = self.loaded

    @torch.no_grad()
    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        net, tokenizer = self.loaded
        size = net["vision"].config.image_size
        x = normalised(cropped(images, size), CLIP_MEAN, CLIP_STD).to(self.device)
        words = tokenizer(list(texts), padding="max_length", truncation=True, max_length=WORDS, return_tensors="pt")
        words = words.to(self.device)
        read = net["text"](input_ids=words.input_ids, attention_mask=words.attention_mask, is_decoder=False,
                           encoder_hidden_states=net["vision"](pixel_values=x).last_hidden_state)
        return {"score": ((net["head"](read.last_hidden_state[:, 0].float())[:, 0] - MEAN) / STD).cpu().numpy()}


def network(vision: Any, text: Any) -> nn.ModuleDict:
    """BLIP's vision model, its text model that looks at the image, and the head; not trained."""
    from transformers import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    return nn.ModuleDict({"vision": BlipVisionModel(vision), "text": BlipTextModel(text, add_pooling_layer=False),
                          "head": head(text.hidden_size)}).eval()


def renamed(state: dict[str, torch.Tensor], net: nn.Module) -> dict[str, torch.Tensor]:
    """Weights of ImageReward.pt by the names of `network`; those that a score does not read are left out."""
    parts = {"blip.visual_encoder.": "vision.", "blip.text_encoder.": "text.", "mlp.layers.": "head."}
    known, found = net.state_dict().keys(), {}
    for name, value in state.items():
        start = next((start for start in parts if name.startswith(start)), None)
        if start is None:
            continue
        rest = name.removeprefix(start)
        for old, new in RENAMED if start.startswith("blip.visual") else ():
            rest = re.sub(old, new, rest)
        if parts[start] + rest in known:
            found[parts[start] + rest] = value
    return found
