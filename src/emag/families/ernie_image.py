"""ERNIE-Image."""

from typing import Any

import torch

from .encode import Tensors
from .records import EARLY, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    found = pipe.encode_prompt(texts, pipe._execution_device)
    states, lengths = pipe._pad_text(text_hiddens=found, device=found[0].device, dtype=pipe.transformer.dtype,
                                     text_in_dim=pipe.transformer.config.text_in_dim)
    return {"text_bth": states, "text_lens": torch.as_tensor(lengths)}


FAMILY = Family(
    "ERNIE-Image",
    networks=(
        Backbone(
            "ErnieImageTransformer2DModel",
            stacks=(Stack("layers", "self_attention", ("x",), ("x",), ("image", "text"), sequence_first=True),),
            per_row=("hidden_states", "timestep", "text_bth", "text_lens"),
            condition=("text_bth",), text="text_bth", time_modules=("time_embedding",),
            encode=encode, usual_text=128,
        ),
    ),
    pipelines=(Host("ErnieImagePipeline", "neg-pos"),),
    defaults={
        "ErnieImageTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 4.0}, "diffusers ErnieImagePipeline"),
        },
    },
    examples=(
        Example("ERNIE-Image", "baidu/ERNIE-Image", "ErnieImagePipeline", "ernie-image", "guidance_scale=4.0",
                note="its prompt enhancer rewrites the prompt; with use_pe=False it stays as written"),
    ),
)
