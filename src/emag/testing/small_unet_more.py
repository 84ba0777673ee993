"""Further small pipelines around a U-Net: from pictures or their depth, with ControlNet-Union."""

from typing import Any

import torch
from diffusers import (
    ControlNetUnionModel,
    DDPMScheduler,
    LatentConsistencyModelImg2ImgPipeline,
    LCMScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionImageVariationPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetUnionImg2ImgPipeline,
    StableDiffusionXLControlNetUnionInpaintPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableUnCLIPImg2ImgPipeline,
    T2IAdapter,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from .small import Case, awaken, noise, quiet
from .small_separate import controlled, from_image, pictures
from .small_unet import SIDE, calm, control, ddim, deep_vae, sd, sd_call, sdxl, sdxl_call, sized_by_image, unet, unet_xl

SEEN = 6  # numbers that stand for a picture


def union(cls: Any, seed: int = 0) -> Any:
    net = unet_xl(seed)
    shared = {name: net.config[name] for name in (
        "down_block_types", "block_out_channels", "layers_per_block", "norm_num_groups", "cross_attention_dim",
        "attention_head_dim", "transformer_layers_per_block", "use_linear_projection", "addition_embed_type",
        "addition_time_embed_dim", "projection_class_embeddings_input_dim")}
    made = ControlNetUnionModel(**shared, conditioning_embedding_out_channels=(2, 2, 2, 2), num_control_type=2,
                                num_trans_channel=8, num_trans_head=2, num_proj_channel=8)
    return sdxl(cls, network=net, controlnet=calm(awaken(made, 5)))


def controlled_as(cls: Any, make: Any, network: Any) -> Any:
    """A maker of pipelines of the class `cls` with a ControlNet."""
    def pipe(seed: int = 0) -> Any:
        net = network(seed)
        return make(cls, network=net, controlnet=control(net))

    return pipe


def adapter_xl(seed: int = 0) -> Any:
    made = T2IAdapter(channels=[8, 16], num_res_blocks=1)
    # attention where the adapter's first features are: before the image is made smaller
    net = unet_xl(seed, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), transformer_layers_per_block=(2, 1),
                  up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    return quiet(StableDiffusionXLAdapterPipeline.from_pipe(sdxl(network=net), adapter=awaken(made, 5)))


def picture_encoder(width: int) -> CLIPVisionModelWithProjection:
    torch.manual_seed(0)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4,
        projection_dim=width)).eval()


def variation(seed: int = 0) -> Any:
    """A picture is the only condition."""
    return quiet(StableDiffusionImageVariationPipeline(
        vae=deep_vae(), image_encoder=picture_encoder(12), unet=unet(seed), scheduler=ddim(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False))


def depth(seed: int = 0) -> Any:
    """A depth map is a fifth channel."""
    bare = dict.fromkeys(("text_encoder", "tokenizer", "depth_estimator", "feature_extractor"))
    return quiet(StableDiffusionDepth2ImgPipeline(vae=deep_vae(), unet=unet(seed, in_channels=5), scheduler=ddim(), **bare))


def unclip(seed: int = 0) -> Any:
    """What a picture encoder saw, and the level of its noise, are added to the embedding of the time."""
    net = unet(seed, class_embed_type="projection", projection_class_embeddings_input_dim=2 * SEEN)
    bare = dict.fromkeys(("feature_extractor", "tokenizer", "text_encoder"))
    return quiet(StableUnCLIPImg2ImgPipeline(
        image_encoder=picture_encoder(SEEN), image_normalizer=StableUnCLIPImageNormalizer(SEEN),
        image_noising_scheduler=DDPMScheduler(), unet=net, scheduler=ddim(), vae=deep_vae(), **bare))


def lcm_from_image(seed: int = 0) -> Any:
    return sd(LatentConsistencyModelImg2ImgPipeline, scheduler=LCMScheduler(), network=unet(seed, time_cond_proj_dim=6))


def lcm_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {name: value for name, value in sized_by_image(sd_call)(seeds, **more).items() if not name.startswith("negative")}


def depth_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {"depth_map": torch.cat([noise(600 + seed, 1, SIDE, SIDE) for seed in seeds]),
            **sized_by_image(sd_call)(seeds, **more)}


def variation_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    values = {name: value for name, value in sd_call(seeds, **more).items() if "prompt" not in name}
    return {"image": pictures(seeds), **values}


def unclip_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {"image_embeds": torch.cat([noise(600 + seed, 1, SEEN) for seed in seeds]), **sd_call(seeds, **more)}


def edit_xl(seed: int = 0) -> Any:
    """InstructPix2Pix on SDXL: a picture stands beside x_t."""
    bare = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return quiet(StableDiffusionXLInstructPix2PixPipeline(
        vae=deep_vae(), unet=unet_xl(seed, in_channels=8), scheduler=ddim(), **bare))


def edited(call: Any, sized: bool) -> Any:
    """`call` of InstructPix2Pix, whose text and picture are weighed alike; some take the size of the picture."""
    def made(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
        values = {"image": pictures(seeds, SIDE, SIDE), "image_guidance_scale": 3.0, **call(seeds, **more)}
        return {name: value for name, value in values.items() if sized or name not in ("height", "width")}

    return made


_HALF: dict[str, Any] = {"controlnet_conditioning_scale": 0.5}
_UNION: dict[str, Any] = {"control_mode": 0, "controlnet_conditioning_scale": 0.5}

MORE = {case.name: case for case in (
    Case("sdxl-union", lambda **kw: union(StableDiffusionXLControlNetUnionPipeline, **kw), controlled(sdxl_call, **_UNION),
         True),
    Case("sdxl-union-img2img", lambda **kw: union(StableDiffusionXLControlNetUnionImg2ImgPipeline, **kw),
         controlled(from_image(sdxl_call), **_UNION), True),
    Case("sdxl-union-inpaint", lambda **kw: union(StableDiffusionXLControlNetUnionInpaintPipeline, **kw),
         controlled(from_image(sdxl_call, inpaint=True), **_UNION), True),
    Case("sd-control-img2img", controlled_as(StableDiffusionControlNetImg2ImgPipeline, sd, unet),
         controlled(from_image(sd_call), **_HALF), True),
    Case("sd-control-inpaint", controlled_as(StableDiffusionControlNetInpaintPipeline, sd, unet),
         controlled(from_image(sd_call, inpaint=True), **_HALF), True),
    Case("sdxl-control-img2img", controlled_as(StableDiffusionXLControlNetImg2ImgPipeline, sdxl, unet_xl),
         controlled(from_image(sdxl_call), **_HALF), True),
    Case("sdxl-control-inpaint", controlled_as(StableDiffusionXLControlNetInpaintPipeline, sdxl, unet_xl),
         controlled(from_image(sdxl_call, inpaint=True), **_HALF), True),
    Case("sdxl-adapter", adapter_xl, controlled(sdxl_call, "image", adapter_conditioning_scale=0.5), True),
    Case("lcm-img2img", lcm_from_image, lcm_call, False),
    Case("sd-depth", depth, depth_call, True),
    Case("sd-variation", variation, variation_call, True),
    Case("sd-unclip", unclip, unclip_call, True),
    Case("sd-edit", lambda seed=0: sd(StableDiffusionInstructPix2PixPipeline, network=unet(seed, in_channels=8)),
         edited(sd_call, sized=False), True),
    Case("sdxl-edit", edit_xl, edited(sdxl_call, sized=True), True),
)}
"""Pipelines around a U-Net that `small_unet` does not have."""
