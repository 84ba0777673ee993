"""Pipelines that start from an image: image to image, inpainting, control, editing."""

from .entry import FLUX_NEGATIVE, Host

ENTRIES: tuple[Host, ...] = (
    Host("StableDiffusion3Img2ImgPipeline", "neg-pos", strength="strength"),
    Host("StableDiffusion3InpaintPipeline", "neg-pos", strength="strength"),
    Host("StableDiffusion3ControlNetPipeline", "neg-pos"),
    Host("StableDiffusion3ControlNetInpaintingPipeline", "neg-pos"),
    Host("FluxImg2ImgPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE, strength="strength"),
    Host("FluxInpaintPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE, strength="strength"),
    Host("FluxControlNetPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE),
    Host("FluxControlNetImg2ImgPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
    Host("FluxControlNetInpaintPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
    Host("FluxFillPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
    Host("FluxControlPipeline", "calls", scale=None, negative_prompt=None),
    Host("FluxControlImg2ImgPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
    Host("FluxControlInpaintPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
)
