"""FLUX.2."""

from typing import Any

from .encode import Tensors
from .records import EARLY, JOINT, MERGED, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

CACHED = (("image", "the keys of reference images are kept from the first step on, and weak passes would not see them"),)


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, ids = pipe.encode_prompt(texts)
    return {"encoder_hidden_states": states, "txt_ids": ids}


FAMILY = Family(
    "FLUX.2",
    networks=(
        Backbone(
            "Flux2Transformer2DModel",
            stacks=(Stack("transformer_blocks", "attn", *JOINT, ("text", "image")),
                    Stack("single_transformer_blocks", "attn", *MERGED, ("text", "image"))),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "guidance"),
            condition=("encoder_hidden_states",), kwargs="joint_attention_kwargs",
            time_scale=1000.0, grid_ids="img_ids", grid_at=(1, 2), references=True, text_ids=(4, (3,)),
            time_modules=("time_guidance_embed.timestep_embedder",),
            encode=encode, usual_text=512,
        ),
    ),
    pipelines=(
        Host("Flux2Pipeline", "calls", scale=None, negative_prompt=None),
        Host("Flux2KleinPipeline", "calls", negative_prompt=None, distilled="is_distilled"),
        Host("Flux2KleinInpaintPipeline", "calls", negative_prompt=None, distilled="is_distilled", strength="strength"),
        Host("Flux2KleinKVPipeline", "calls", scale=None, negative_prompt=None, refused=CACHED),
    ),
    defaults={
        "Flux2Transformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 4.0}, "diffusers Flux2KleinPipeline"),
        },
    },
    examples=(
        Example("FLUX.2 dev", "black-forest-labs/FLUX.2-dev", "Flux2Pipeline", "flux2", "guidance_scale=4.0",
                note="guidance-distilled"),
        Example("FLUX.2 klein base", "black-forest-labs/FLUX.2-klein-base-9B", "Flux2KleinPipeline", "klein",
                "guidance_scale=4.0"),
    ),
)
