"""HPS v2 and v2.1: open_clip's ViT-H-14 fine-tuned on human choices. The two versions' numbers are not comparable."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .....errors import BadValue
from .....models.judges import HPS_FILES, HPS_NETWORK, HPS_SIZE, load_hps
from ..resize import CLIP_MEAN, CLIP_STD, normalised, padded
from .base import Features


@dataclass
class HPS:
    """score [n]: 100 times the cosine of image and prompt. number: "2.0" or "2.1".

    Longer side to 224, bicubic with antialias on floats, zeros around. Weights are read without running code.
    """

    number: str = "2.1"
    device: str = "cpu"
    network: str = HPS_NETWORK

    def __post_init__(self) -> None:
        if self.number not in HPS_FILES:
            raise BadValue(f"HPS has versions {', '.join(HPS_FILES)}, not {self.number!r}")

    @property
    def version(self) -> str:
        return f"hps-v{self.number} {self.network} pad{HPS_SIZE}-bicubic-antialias x100"

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        net, tokenizer = load_hps(self.number, self.network)
        return net.to(self.device), tokenizer

    def check(self) -> None:
        _ = self.loaded

    @torch.no_grad()
    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        net, tokenizer = self.loaded
        x = normalised(padded(images, HPS_SIZE), CLIP_MEAN, CLIP_STD).to(self.device)
        image, text = net.encode_image(x), net.encode_text(tokenizer(list(texts)).to(self.device))
        return {"score": (100 * torch.cosine_similarity(image.float(), text.float())).cpu().numpy()}
