"""Motif-Video."""

from typing import Any

from .encode import Tensors
from .records import DUAL, EARLY, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, _, mask, _ = pipe.encode_prompt(texts)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


FAMILY = Family(
    "Motif-Video",
    networks=(
        Backbone(
            # its decoder blocks begin with x_t anew, and what its other blocks made of it is their text
            "MotifVideoTransformer3DModel",
            stacks=(Stack("transformer_blocks", "attn", *DUAL, ("image", "text")),
                    Stack("single_transformer_blocks", "attn", *DUAL, ("image", "text"))),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "image_embeds"),
            condition=("encoder_hidden_states",), kwargs="attention_kwargs",
            time_modules=("time_text_embed.timestep_embedder",),
            encode=encode, usual_text=512, usual_video=(121, 736, 1280), token_extent=(4, 16),
        ),
    ),
    pipelines=(
        Host("MotifVideoPipeline", "calls", guider="guider"),
        Host("MotifVideoImage2VideoPipeline", "calls", guider="guider"),
    ),
    defaults={
        "MotifVideoTransformer3DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 7.5}, "diffusers' ClassifierFreeGuidance"),
        },
    },
    examples=(
        Example("Motif-Video", "Motif-Technologies/Motif-Video-2B", "MotifVideoPipeline", "motif-video", output="frames",
                note="its guidance scale is that of the pipeline's `guider`"),
    ),
)
