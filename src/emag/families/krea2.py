"""Krea 2."""

from typing import Any

from .encode import Tensors
from .records import EARLY, MERGED, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

_EMAG = Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth")


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, mask = pipe.encode_prompt(texts)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


FAMILY = Family(
    "Krea 2",
    networks=(
        Backbone(
            "Krea2Transformer2DModel",
            stacks=(Stack("transformer_blocks", "attn", *MERGED, ("text", "image")),),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"),
            condition=("encoder_hidden_states",), kwargs="attention_kwargs",
            time_scale=1000.0, grid_ids="position_ids", joint_ids="position_ids", time_modules=("time_embed",),
            encode=encode, usual_text=512,
        ),
    ),
    pipelines=(
        Host("Krea2Pipeline", "calls-untagged", off=0.0),
    ),
    defaults={
        "Krea2Transformer2DModel": {
            "emag": _EMAG, "cfg": Default({"scale": 5.5}, "diffusers Krea2Pipeline: cond + 4.5 (cond - uncond)"),
        },
    },
    examples=(
        Example("Krea 2", "krea/Krea-2-Raw", "Krea2Pipeline", "krea2", "guidance_scale=4.5"),
    ),
)
