"""Small pipelines of DeepFloyd IF: a first stage, and a second that enlarges; each from noise, from or in a picture."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    IFImg2ImgPipeline,
    IFImg2ImgSuperResolutionPipeline,
    IFInpaintingPipeline,
    IFInpaintingSuperResolutionPipeline,
    IFPipeline,
    IFSuperResolutionPipeline,
)

from .small import Case, noise, quiet
from .small_kandinsky2 import added
from .small_unet import sd_call

BARE = dict.fromkeys(("text_encoder", "tokenizer", "feature_extractor", "safety_checker", "watermarker"))
OF_TEXT: dict[str, Any] = {"out_channels": 6, "encoder_hid_dim": 12, "addition_embed_type": "text",
                           "addition_embed_type_num_heads": 2}


def first(cls: Any = IFPipeline, seed: int = 0) -> Any:
    return quiet(cls(unet=added(seed, in_channels=3, **OF_TEXT), scheduler=DDPMScheduler(clip_sample=False), **BARE,
                     requires_safety_checker=False))


def second(cls: Any = IFSuperResolutionPipeline, seed: int = 0) -> Any:
    net = added(seed, in_channels=6, class_embed_type="timestep", **OF_TEXT)
    return quiet(cls(unet=net, scheduler=DDPMScheduler(clip_sample=False), image_noising_scheduler=DDPMScheduler(), **BARE,
                     requires_safety_checker=False))


def texts(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    call = sd_call(seeds, **{"output_type": "pt", **more})
    return {name: value for name, value in call.items() if name not in ("height", "width")}


def given(**sides: int) -> Callable[..., dict[str, Any]]:
    """A call with pictures, each of its own side in pixels; a mask keeps their upper half."""
    def made(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
        found = {name: torch.cat([noise(660 + seed, 1, 3, side, side).clamp(-1, 1) for seed in seeds])
                 for name, side in sides.items()}
        if "mask_image" in found:
            found["mask_image"] = torch.ones(len(seeds), 1, 8, 8)
            found["mask_image"][:, :, :4] = 0
        return {**found, **({"strength": 0.9} if len(sides) > 1 or "late" in sides else {}), **texts(seeds, **more)}

    return made


def from_picture(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {**given(image=8)(seeds, **more), "strength": 0.9}


MORE = {case.name: case for case in (
    Case("if", first, texts, True),
    Case("if-img2img", partial(first, IFImg2ImgPipeline), from_picture, True),
    Case("if-inpaint", partial(first, IFInpaintingPipeline), given(image=8, mask_image=8), True),
    Case("if-larger", second, given(image=4), True),
    Case("if-larger-img2img", partial(second, IFImg2ImgSuperResolutionPipeline), given(image=4, original_image=8), True),
    Case("if-larger-inpaint", partial(second, IFInpaintingSuperResolutionPipeline),
         given(image=4, original_image=8, mask_image=8), True),
)}
