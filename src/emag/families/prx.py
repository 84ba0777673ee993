"""PRX."""

from typing import Any

from .encode import Tensors
from .records import EARLY, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, mask, _, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "attention_mask": mask}


FAMILY = Family(
    "PRX",
    networks=(
        Backbone(
            "PRXTransformer2DModel",
            stacks=(Stack("blocks", "attention", *SINGLE, ("image",), keys=("text", "image")),),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "attention_mask"),
            condition=("encoder_hidden_states",), kwargs="attention_kwargs", time_scale=1000.0, time_modules=("time_in",),
            channels="in_channels", encode=encode, usual_text=256,
        ),
    ),
    pipelines=(Host("PRXPipeline", "neg-pos"),),
    defaults={
        "PRXTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 4.0}, "diffusers PRXPipeline"),
        },
    },
    examples=(
        Example("PRX", "Photoroom/prx-512-t2i-sft", "PRXPipeline", "prx", "guidance_scale=4.0",
                note="with guidance_scale above 1 its pipeline makes one image a call"),
    ),
)
