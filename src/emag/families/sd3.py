"""Stable Diffusion 3 and 3.5."""

from typing import Any

import torch

from .encode import Tensors, content
from .records import EARLY, JOINT, MIDDLE, OWN_PAG, SD3_WINDOW, SKIP, Backbone, Default, Example, Family, Host, Stack

T5 = 256
"""Tokens that the pipeline gives T5."""


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, _, pooled, _ = pipe.encode_prompt(texts, None, None, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "pooled_projections": pooled}


def content_of(pipe: Any, texts: list[str]) -> torch.Tensor:
    """77 tokens of CLIP, then 256 of T5, of which none is content where T5 is left out."""
    clip = content(pipe.tokenizer, texts, pipe.tokenizer_max_length)
    if pipe.text_encoder_3 is None:
        return torch.cat([clip, clip.new_zeros(len(texts), T5)], 1)
    return torch.cat([clip, content(pipe.tokenizer_3, texts, T5)], 1)


FAMILY = Family(
    "Stable Diffusion 3 and 3.5",
    networks=(
        Backbone(
            "SD3Transformer2DModel",
            stacks=(Stack("transformer_blocks", "attn", *JOINT, ("image", "text")),),
            per_row=("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep",
                     "block_controlnet_hidden_states"),
            condition=("encoder_hidden_states", "pooled_projections"),
            kwargs="joint_attention_kwargs", kwargs_rows=("ip_adapter_image_embeds", "ip_hidden_states", "temb"),
            image_prompt="joint_attention_kwargs.ip_adapter_image_embeds", image_prompts=False,
            time_modules=("time_text_embed.timestep_embedder",), placed=False, unordered=True,
            encode=encode, content=content_of, usual_text=333,
        ),
    ),
    pipelines=(
        Host("StableDiffusion3Pipeline", "neg-pos", third_call="skip_layers", third_asked="skip_guidance_layers"),
        Host("StableDiffusion3Img2ImgPipeline", "neg-pos", strength="strength"),
        Host("StableDiffusion3InpaintPipeline", "neg-pos", strength="strength"),
        Host("StableDiffusion3ControlNetPipeline", "neg-pos"),
        Host("StableDiffusion3ControlNetInpaintingPipeline", "neg-pos"),
        Host("StableDiffusion3PAGPipeline", "neg-pos", own=OWN_PAG),
        Host("StableDiffusion3PAGImg2ImgPipeline", "neg-pos", strength="strength", own=OWN_PAG),
    ),
    defaults={
        "SD3Transformer2DModel": {
            "nag": Default({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75},
                           "the authors' ComfyUI workflow for SD3.5-turbo"),
            "vsf": Default({"flip": 3.5, "offset": 0.1}, "the authors' SD3.5-large-turbo script"),
            "slg": Default({"scale": SKIP, "layers": (7 / 24, 8 / 24, 9 / 24)},
                           "diffusers SD3 pipeline: s 2.8; blocks 7-9 of SD3.5-medium, which do not suit SD3.5-large"),
            "pag": Default({"scale": 1.7, "layers": (13 / 24,)}, "diffusers SD3 PAG example: s 0.7, block 13"),
            "seg": Default({"scale": 3.8, "layers": (7 / 24, 8 / 24, 9 / 24), "sigma": 1e7},
                           "diffusers' SEG guider: s 2.8, the mean query, blocks 7-9 of SD3.5-medium"),
            "token-merge": Default({"ratio": 0.3, "pool": 1.4, "start": 2, "early": "whole", "likeness": "features"},
                                   "looked at on the embedded model: Stable Diffusion's 0.7 breaks its images"),
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "the authors' SD3 scripts"),
            "apg": Default({"scale": 12.0, "norm_threshold": 7.5, "momentum": -0.5}, "the authors' SD3 scripts"),
            "cads": Default({"scale": 0.25, "tau1": 0.6, "tau2": 1.0, "psi": 1.0}, "the authors' SD3 scripts"),
            "rlg": Default({"scale": 1.6}, "the authors' command line, SD3.5 medium"),
            "cfg": Default({"scale": 7.0}, "diffusers StableDiffusion3Pipeline"),
            "s-cfg": Default({"scale": 7.0, "layers": MIDDLE}, "untested default: the CFG scale, the middle blocks"),
        },
    },
    examples=(
        Example("Stable Diffusion 3 medium", "stabilityai/stable-diffusion-3-medium-diffusers", "StableDiffusion3Pipeline",
                "sd3",
                "guidance_scale=7.0"),
        Example("Stable Diffusion 3.5 medium", "stabilityai/stable-diffusion-3.5-medium", "StableDiffusion3Pipeline",
                "sd3.5",
                "guidance_scale=4.5"),
    ),
)
