"""DiT."""

from typing import Any

import torch

from .encode import Tensors, label_of
from .records import DIT_WINDOW, MIDDLE, SINGLE, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    return {"class_labels": torch.tensor([label_of(pipe, text) for text in texts])}


FAMILY = Family(
    "DiT",
    networks=(
        Backbone(
            "DiTTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("image",)),),
            per_row=("hidden_states", "timestep", "class_labels"),
            condition_modules=("transformer_blocks.*.norm1.emb.class_embedder",),
            kwargs="cross_attention_kwargs", text=None,
            time_modules=("transformer_blocks.*.norm1.emb.timestep_embedder",), placed=False, unordered=True,
            encode=encode,
        ),
    ),
    pipelines=(
        Host("DiTPipeline", "pos-neg", prompt="class_labels", negative_prompt=None, sized=False),
    ),
    defaults={
        "DiTTransformer2DModel": {
            "sag": Default({"scale": 1.2, "layers": MIDDLE, "kernel": 31},
                           "blocks and kernel: EMAG's comparison; scale: ADM's s 0.2 on ImageNet 256, in pixels"),
            "pag": Default({"scale": 4.0, "layers": MIDDLE}, "blocks: EMAG's comparison; scale: the authors' s 3"),
            "seg": Default({"scale": 4.0, "layers": MIDDLE, "sigma": 1.0},
                           "blocks, sigma: EMAG's comparison; scale: SDXL's s 3"),
            "erg": Default({"layers": MIDDLE}, "EMAG's comparison"),
            "erg-push": Default({"scale": 1.5, "layers": MIDDLE}, "EMAG's comparison"),
            "emag": Default({"scale": 3.0, "layers": MIDDLE, "window": DIT_WINDOW}, "the authors' DiT scripts"),
            "apg": Default({"scale": 4.0, "norm_threshold": 5.0, "momentum": -0.5}, "the authors' DiT scripts"),
            "cads": Default({"scale": 0.006, "tau1": 0.475, "tau2": 0.9, "psi": 1.0}, "the authors' DiT scripts"),
            "cfg": Default({"scale": 1.5}, "the authors' DiT scripts"),
        },
    },
    examples=(
        Example("DiT-XL/2", "facebook/DiT-XL-2-256", "DiTPipeline", "dit", "guidance_scale=1.5", prompt="[207, 360]"),
    ),
)
