"""FLUX.1."""

from typing import Any

import torch

from .encode import Tensors, content
from .records import EARLY, FLUX_NEGATIVE, JOINT, MIDDLE, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, pooled, ids = pipe.encode_prompt(texts, None)
    return {"encoder_hidden_states": states, "pooled_projections": pooled, "txt_ids": ids}


def content_of(pipe: Any, texts: list[str]) -> torch.Tensor:
    return content(pipe.tokenizer_2, texts, 512)


FAMILY = Family(
    "FLUX.1",
    networks=(
        Backbone(
            "FluxTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn", *JOINT, ("text", "image")),
                    Stack("single_transformer_blocks", "attn", *JOINT, ("text", "image"))),
            per_row=("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep", "guidance",
                     "controlnet_block_samples", "controlnet_single_block_samples"),
            condition=("encoder_hidden_states", "pooled_projections"),
            kwargs="joint_attention_kwargs", kwargs_rows=("ip_adapter_image_embeds", "ip_hidden_states"),
            image_prompt="joint_attention_kwargs.ip_adapter_image_embeds",
            time_scale=1000.0, grid_ids="img_ids", references=True, text_ids=(3, ()),
            time_modules=("time_text_embed.timestep_embedder",),
            encode=encode, content=content_of, usual_text=512,
        ),
    ),
    pipelines=(
        Host("FluxPipeline", "calls", scale="true_cfg_scale", negative=FLUX_NEGATIVE),
        Host("FluxImg2ImgPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE, strength="strength"),
        Host("FluxInpaintPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE, strength="strength"),
        Host("FluxControlNetPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE),
        Host("FluxControlNetImg2ImgPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
        Host("FluxControlNetInpaintPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
        Host("FluxFillPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
        Host("FluxControlPipeline", "calls", scale=None, negative_prompt=None),
        Host("FluxControlImg2ImgPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
        Host("FluxControlInpaintPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
        Host("FluxKontextPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE),
        Host("FluxKontextInpaintPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE,
             strength="strength"),
    ),
    defaults={
        "FluxTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "sg": Default({"scale": 2.0}, "the authors' s 1 on FLUX.1"),
            "cfg": Default({"scale": 3.5}, "untested default"),
            "s-cfg": Default({"scale": 3.5, "layers": MIDDLE}, "untested default: the CFG scale, the middle blocks"),
        },
    },
    examples=(
        Example("FLUX.1 dev", "black-forest-labs/FLUX.1-dev", "FluxPipeline", "flux", "guidance_scale=3.5",
                note="guidance-distilled: EMAG pushes on the one prediction there is"),
        Example("FLUX.1 dev, true CFG", "black-forest-labs/FLUX.1-dev", "FluxPipeline", "true-cfg",
                'negative_prompt="", true_cfg_scale=2.0, guidance_scale=1.0', note="two calls a step"),
        Example("FLUX.1 Kontext", "black-forest-labs/FLUX.1-Kontext-dev", "FluxKontextPipeline", "kontext",
                "guidance_scale=2.5", prompt='photo, "make it night"', note="`photo` is a PIL image; guidance-distilled"),
    ),
)
