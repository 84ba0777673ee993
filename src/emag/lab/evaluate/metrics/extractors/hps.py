"""HPS v2 and v2.1: open_clip's ViT-H-14 fine-tuned on human choices. The two versions' numbers are not comparable."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from .....errors import BadValue
from ..resize import CLIP_MEAN, CLIP_STD, normalised, padded
from .base import Features, needs

FILES = {"2.0": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}
HUB, NETWORK, SIZE = "xswu/HPSv2", "ViT-H-14", 224


@dataclass
class HPS:
    """score [n]: 100 times the cosine of image and prompt. number: "2.0" or "2.1".

    Longer side to 224, bicubic with antialias on floats, zeros around. Weights are read without running code.
    """

    number: str = "2.1"
    device: str = "cpu"
    network: str = NETWORK

    def __post_init__(self) -> None:
        if self.number not in FILES:
            raise BadValue(f"HPS has versions {', '.join(FILES)}, not {self.number!r}")

    @property
    def version(self) -> str:
        return f"hps-v{self.number} {self.network} pad{SIZE}-bicubic-antialias x100"

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        def build() -> tuple[Any, Any]:
            import open_clip
            from huggingface_hub import hf_hub_download

            net = open_clip.create_model(self.network, pretrained=None, precision="fp32")
            net.load_state_dict(weights(hf_hub_download(HUB, FILES[self.number])))
            return net.eval().to(self.device), open_clip.get_tokenizer(self.network)

        return needs(build, f"HPS v{self.number}", "open_clip_torch")  # type: ignore[return-value]

    def check(self) -> None:
        _ = self.loaded

    @torch.no_grad()
    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        net, tokenizer = self.loaded
        x = normalised(padded(images, SIZE), CLIP_MEAN, CLIP_STD).to(self.device)
        image, text = net.encode_image(x), net.encode_text(tokenizer(list(texts)).to(self.device))
        return {"score": (100 * torch.cosine_similarity(image.float(), text.float())).cpu().numpy()}


def weights(path: str) -> dict[str, torch.Tensor]:
    """The state in a checkpoint of HPS: tensors only, nothing in the file is run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError("the file is damaged, or holds more than tensors") from None
    return state.get("state_dict", state)
