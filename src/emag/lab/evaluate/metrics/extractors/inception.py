"""The Inception network of FID, from torch-fidelity: weights "2015-12-05", TensorFlow's bilinear resizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .base import Features, needs


@dataclass
class Inception:
    """features [n, 2048], as of ADM's TensorFlow graph; any image size. Needs `pip install torch-fidelity`."""

    device: str = "cpu"
    version: str = "inception-2015-12-05 torch-fidelity tf1-bilinear"

    @cached_property
    def loaded(self) -> Any:
        def build() -> Any:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

            return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).eval().to(self.device)

        return needs(build, "Inception", "torch-fidelity")

    def check(self) -> None:
        _ = self.loaded

    @torch.no_grad()
    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(self.device)
        return {"features": self.loaded(x)[0].float().cpu().numpy()}
