"""Bria 3.2."""

from typing import Any

from .encode import Tensors
from .records import EARLY, JOINT, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, _, ids = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "txt_ids": ids[0]}


FAMILY = Family(
    "Bria 3.2",
    networks=(
        Backbone(
            "BriaTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn", *JOINT, ("text", "image")),
                    Stack("single_transformer_blocks", "attn", *JOINT, ("text", "image"))),
            per_row=("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep", "guidance",
                     "controlnet_block_samples", "controlnet_single_block_samples"),
            condition=("encoder_hidden_states",), kwargs="attention_kwargs",
            time_modules=("time_embed.timestep_embedder",), grid_ids="img_ids", text_ids=(3, ()),
            encode=encode, usual_text=128,
        ),
    ),
    pipelines=(
        Host("BriaPipeline", "neg-pos", rescales=(("normalize", False),),
             refused=(("clip_value", "it would clip our result"),)),
    ),
    defaults={
        "BriaTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW},
                            "by analogy with FLUX.1, whose blocks these are: SD3's relative depth, untested"),
            "cfg": Default({"scale": 5.0}, "diffusers BriaPipeline"),
        },
    },
    examples=(Example("Bria 3.2", "briaai/BRIA-3.2", "BriaPipeline", "bria", "guidance_scale=5.0"),),
)
