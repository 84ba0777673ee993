"""Small pipelines of diffusers' own PAG, which is switched off so that ours can take its place."""

from functools import partial
from typing import Any

from diffusers import (
    HunyuanDiTPAGPipeline,
    PixArtSigmaPAGPipeline,
    PixArtSigmaPipeline,
    SanaPAGPipeline,
    StableDiffusion3PAGImg2ImgPipeline,
    StableDiffusion3PAGPipeline,
    StableDiffusionControlNetPAGInpaintPipeline,
    StableDiffusionControlNetPAGPipeline,
    StableDiffusionPAGImg2ImgPipeline,
    StableDiffusionPAGInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLControlNetPAGImg2ImgPipeline,
    StableDiffusionXLControlNetPAGPipeline,
    StableDiffusionXLPAGImg2ImgPipeline,
    StableDiffusionXLPAGInpaintPipeline,
    StableDiffusionXLPAGPipeline,
)

from .small import Case, pixart, pixart_call, quiet, sd3, sd3_call
from .small_separate import controlled, from_image, hunyuan, hunyuan_call, sana, sana_call
from .small_unet import sd, sd_call, sd_control, sdxl, sdxl_call, sdxl_control, sized_by_image

MIDDLE, FIRST = "mid", "blocks.0"
"""Where diffusers' PAG works, by the names of layers that its pipelines take."""


def guided_as(cls: Any, make: Any, layers: str = MIDDLE) -> Any:
    """A maker of the components of `make` under the class `cls`."""
    return lambda **settings: quiet(cls.from_pipe(make(**settings), pag_applied_layers=layers))


def off(call: Any) -> Any:
    """`call` with diffusers' PAG switched off."""
    return partial(call, pag_scale=0.0)


HALF: dict[str, Any] = {"controlnet_conditioning_scale": 0.5}
_CONTROL = controlled(sd_call, "image", **HALF)
_CONTROL_XL = controlled(sdxl_call, "image", **HALF)
_SIGMA = partial(pixart, PixArtSigmaPipeline)

MORE = {case.name: case for case in (
    Case("sd-pag", guided_as(StableDiffusionPAGPipeline, sd), off(sd_call), True),
    Case("sd-pag-img2img", guided_as(StableDiffusionPAGImg2ImgPipeline, sd), off(sized_by_image(sd_call)), True),
    Case("sd-pag-inpaint", guided_as(StableDiffusionPAGInpaintPipeline, sd), off(from_image(sd_call, inpaint=True)), True),
    Case("sd-pag-control", guided_as(StableDiffusionControlNetPAGPipeline, sd_control), off(_CONTROL), True),
    Case("sd-pag-control-inpaint", guided_as(StableDiffusionControlNetPAGInpaintPipeline, sd_control),
         off(controlled(from_image(sd_call, inpaint=True), **HALF)), True),
    Case("sdxl-pag", guided_as(StableDiffusionXLPAGPipeline, sdxl), off(sdxl_call), True),
    Case("sdxl-pag-img2img", guided_as(StableDiffusionXLPAGImg2ImgPipeline, sdxl), off(sized_by_image(sdxl_call)), True),
    Case("sdxl-pag-inpaint", guided_as(StableDiffusionXLPAGInpaintPipeline, sdxl),
         off(from_image(sdxl_call, inpaint=True)), True),
    Case("sdxl-pag-control", guided_as(StableDiffusionXLControlNetPAGPipeline, sdxl_control), off(_CONTROL_XL), True),
    Case("sdxl-pag-control-img2img", guided_as(StableDiffusionXLControlNetPAGImg2ImgPipeline, sdxl_control),
         off(controlled(from_image(sdxl_call), **HALF)), True),
    Case("sd3-pag", guided_as(StableDiffusion3PAGPipeline, sd3, FIRST), off(sd3_call), True),
    Case("sd3-pag-img2img", guided_as(StableDiffusion3PAGImg2ImgPipeline, sd3, FIRST), off(from_image(sd3_call)), True),
    Case("hunyuan-pag", guided_as(HunyuanDiTPAGPipeline, hunyuan, FIRST), off(hunyuan_call), True),
    Case("sigma-pag", guided_as(PixArtSigmaPAGPipeline, _SIGMA, FIRST), off(pixart_call), True),
    Case("sana-pag", guided_as(SanaPAGPipeline, sana, FIRST), off(sana_call), True),
)}
"""Pipelines that differ from another of ours in their own PAG alone."""
