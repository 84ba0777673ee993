"""Ovis-Image."""

from typing import Any

from .encode import Tensors
from .records import EARLY, JOINT, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, _, ids, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "txt_ids": ids}


FAMILY = Family(
    "Ovis-Image",
    networks=(
        Backbone(
            "OvisImageTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn", *JOINT, ("text", "image")),
                    Stack("single_transformer_blocks", "attn", *JOINT, ("text", "image"))),
            per_row=("hidden_states", "encoder_hidden_states", "timestep"),
            condition=("encoder_hidden_states",), kwargs="joint_attention_kwargs",
            time_scale=1000.0, time_modules=("timestep_embedder",), grid_ids="img_ids", text_ids=(3, (1, 2)),
            encode=encode, usual_text=256,
        ),
    ),
    pipelines=(Host("OvisImagePipeline", "calls"),),
    defaults={
        "OvisImageTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW},
                            "by analogy with FLUX.1, whose blocks these are: SD3's relative depth, untested"),
            "cfg": Default({"scale": 5.0}, "diffusers OvisImagePipeline"),
        },
    },
    examples=(Example("Ovis-Image", "AIDC-AI/Ovis-Image-7B", "OvisImagePipeline", "ovis", "guidance_scale=5.0"),),
)
