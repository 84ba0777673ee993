"""Lumina-Next."""

from typing import Any

from .encode import Tensors
from .records import CROSS, MIDDLE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, mask, _, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "encoder_mask": mask}


FAMILY = Family(
    "Lumina-Next",
    networks=(
        Backbone(
            "LuminaNextDiT2DModel",
            stacks=(Stack("layers", "attn1", *SINGLE, ("image",), "attn2"),),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_mask"),
            condition=("encoder_hidden_states",), kwargs="cross_attention_kwargs", channels="in_channels",
            time_scale=-1000.0, time_offset=1000.0, time_modules=("time_caption_embed.timestep_embedder",), negated=True,
            encode=encode,
        ),
    ),
    pipelines=(Host("LuminaPipeline", "pos-neg"),),
    defaults={
        "LuminaNextDiT2DModel": {
            "nag": Default({"scale": 5.0, "alpha": 0.38, "sigma_end": 0.97, "cross": True}, "untested default: PixArt's"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: PixArt's"),
            **CROSS,
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
            "cfg": Default({"scale": 4.0},
                           "diffusers LuminaPipeline, which leaves the last channel conditional and we do not"),
        },
    },
    examples=(
        Example("Lumina-Next", "Alpha-VLLM/Lumina-Next-SFT-diffusers", "LuminaPipeline", "lumina", "guidance_scale=4.0"),
    ),
)
