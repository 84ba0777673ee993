"""Allegro."""

from typing import Any

from .encode import Tensors
from .records import CROSS, MIDDLE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, mask, _, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states[:, None], "encoder_attention_mask": mask}


FAMILY = Family(
    "Allegro",
    networks=(
        Backbone(
            "AllegroTransformer3DModel",
            stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("image",), "attn2"),),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "attention_mask", "encoder_attention_mask"),
            condition=("encoder_hidden_states",), time_modules=("adaln_single.emb.timestep_embedder",),
            encode=encode, usual_video=(88, 720, 1280), token_extent=(4, 16),
        ),
    ),
    pipelines=(Host("AllegroPipeline", "neg-pos"),),
    defaults={
        "AllegroTransformer3DModel": {
            **CROSS,
            "nag": Default({"scale": 5.0, "alpha": 0.38, "sigma_end": 0.97, "cross": True}, "untested default: PixArt's"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
            "cfg": Default({"scale": 7.5}, "diffusers AllegroPipeline"),
        },
    },
    examples=(
        Example("Allegro", "rhymes-ai/Allegro", "AllegroPipeline", "allegro", "guidance_scale=7.5", output="frames"),
    ),
)
