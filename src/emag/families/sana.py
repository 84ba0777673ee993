"""Sana."""

import inspect
from typing import Any

from .encode import Tensors
from .records import CROSS, MIDDLE, OWN_PAG, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack

_LINEAR = "EMAG and PAG need a map, which linear attention does not have; SLG skips a block"

_DEFAULTS = {
    "nag": Default({"scale": 5.0, "alpha": 0.38, "sigma_end": 0.97, "cross": True}, "untested default: PixArt's"),
    "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: PixArt's"),
    **CROSS,
    "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "none works: linear attention has no map"),
}


def encode(pipe: Any, texts: list[str]) -> Tensors:
    """With the instruction that the host puts before a prompt by default."""
    said = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    states, mask, _, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False, complex_human_instruction=said)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


FAMILY = Family(
    "Sana",
    networks=(
        Backbone(
            "SanaTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("image",), "attn2", linear=True),),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "guidance", "encoder_attention_mask",
                     "attention_mask", "controlnet_block_samples"),
            condition=("encoder_hidden_states",),
            kwargs="attention_kwargs", time_modules=("time_embed.emb.timestep_embedder",),
            encode=encode, latent_pixels=32,  # others: 8
        ),
        Backbone(
            "SanaVideoTransformer3DModel",
            stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("image",), "attn2", linear=True),),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "guidance", "encoder_attention_mask",
                     "attention_mask", "controlnet_block_samples"),
            condition=("encoder_hidden_states",),
            kwargs="attention_kwargs", time_modules=("time_embed.emb.timestep_embedder",),
            encode=encode, usual_video=(81, 480, 832), token_extent=(4, 16),
        ),
    ),
    pipelines=(
        Host("SanaPipeline", "neg-pos"),
        Host("SanaControlNetPipeline", "neg-pos"),
        Host("SanaPAGPipeline", "neg-pos", own=OWN_PAG),
        Host("SanaSprintPipeline", "neg-pos", scale=None, negative_prompt=None, path="trigonometric"),
        Host("SanaSprintImg2ImgPipeline", "neg-pos", scale=None, negative_prompt=None, path="trigonometric",
             strength="strength"),
        Host("SanaVideoPipeline", "neg-pos"),
        Host("SanaImageToVideoPipeline", "neg-pos"),
    ),
    defaults={
        "SanaTransformer2DModel": {**_DEFAULTS, "cfg": Default({"scale": 4.5}, "diffusers SanaPipeline")},
        "SanaVideoTransformer3DModel": {**_DEFAULTS, "cfg": Default({"scale": 6.0}, "diffusers SanaVideoPipeline")},
    },
    examples=(
        Example("Sana", "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", "SanaPipeline", "sana",
                "guidance_scale=4.5",
                rule='emag.SLG(1.5)', note=_LINEAR),
        Example("Sana-Video", "Efficient-Large-Model/SANA-Video_2B_480p_diffusers", "SanaVideoPipeline", "sana-video",
                "guidance_scale=6.0", rule='emag.SLG(1.5)', output="frames", note=_LINEAR),
    ),
)
