"""Small Z-Image pipelines that fill in a picture, or follow one."""

from typing import Any

import torch
from diffusers import (
    ZImageControlNetInpaintPipeline,
    ZImageControlNetModel,
    ZImageControlNetPipeline,
    ZImageInpaintPipeline,
)

from .small import noise, quiet
from .small_ragged import Ragged, z_image, z_image_call
from .small_separate import controlled, from_image, masks, pictures


def z_image_control(cls: Any = ZImageControlNetPipeline, layers: int = 4, seed: int = 0) -> Any:
    made = z_image(layers=layers, seed=seed)
    extra = 5 if cls is ZImageControlNetInpaintPipeline else 0  # a mask and the picture that is filled in
    net = ZImageControlNetModel(control_layers_places=[0, 2], control_refiner_layers_places=[0], control_in_dim=4 + extra,
                                dim=32, n_refiner_layers=1, n_heads=2, n_kv_heads=2)
    weights = torch.Generator().manual_seed(5)
    for parameter in net.parameters():  # before it shares some with the network, which stay what they are
        parameter.data.copy_(torch.randn(parameter.shape, generator=weights) / parameter.shape[-1]**0.5)
    net = ZImageControlNetModel.from_transformer(net, made.transformer)
    return quiet(cls(**made.components, controlnet=net.eval()))


def control_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return controlled(z_image_call, height=16, width=16, controlnet_conditioning_scale=0.3)(seeds, **more)


def control_inpaint_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {"image": pictures(seeds, 16, 16), "mask_image": masks(seeds, 16, 16), **control_call(seeds, **more)}


def inpaint_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    values = from_image(z_image_call, inpaint=True)(seeds, **{"height": 16, "width": 16, **more})
    # latents of a picture are drawn from its encoder for a whole batch at once: these are given
    return {**values, "masked_image_latents": torch.cat([noise(300 + seed, 1, 4, 16, 16) for seed in seeds])}


MORE = {case.name: case for case in (
    Ragged("z-image-inpaint", lambda **kw: z_image(ZImageInpaintPipeline, **kw), inpaint_call, True),
    Ragged("z-image-control", z_image_control, control_call, True),
    Ragged("z-image-control-inpaint", lambda **kw: z_image_control(ZImageControlNetInpaintPipeline, **kw),
           control_inpaint_call, True),
)}
"""Z-Image with a picture; from a picture alone it is in `small_ragged`."""
