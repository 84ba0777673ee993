"""Small pipelines around a U-Net: Stable Diffusion, SDXL, and what is built on them."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)

from .small import Case, _negative, _text, awaken, generators, quiet
from .small_separate import controlled, from_image

BARE = dict.fromkeys(("text_encoder", "tokenizer", "feature_extractor", "image_encoder"))
SIDE = 64  # pixels; eight to a latent


def unet(seed: int = 0, **config: Any) -> UNet2DConditionModel:
    """Four blocks: one on the way down, one in the middle, two on the way up."""
    net = UNet2DConditionModel(**{**dict(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12, attention_head_dim=2), **config})
    return calm(awaken(net, seed))


def unet_xl(seed: int = 0, **config: Any) -> UNet2DConditionModel:
    """Eight blocks, two in a row: two on the way down, two in the middle, four on the way up."""
    return unet(seed, **{**dict(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=10 + 6 * 4), **config})


def calm(net: Any) -> Any:
    """A network that does not enlarge small differences much: many norms in a row do where their gains are above 1."""
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data.mul_(0.6)
    for module in net.modules():
        if isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm)) and module.weight is not None:
            module.weight.data.mul_(0.6)
    return net


def deep_vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(block_out_channels=(2, 2, 2, 2), norm_num_groups=1, latent_channels=4, scaling_factor=1.0,
                         down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4).eval()


def ddim(**more: Any) -> DDIMScheduler:
    """The noise levels of Stable Diffusion."""
    return DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
                         steps_offset=1, **more)


def sd(cls: Any = StableDiffusionPipeline, seed: int = 0, scheduler: Any = None, network: Any = None, **more: Any) -> Any:
    """A pipeline of Stable Diffusion 1 or 2."""
    return quiet(cls(vae=deep_vae(), unet=network or unet(seed), scheduler=scheduler or ddim(), safety_checker=None,
                     requires_safety_checker=False, **{**BARE, **more}))


def sdxl(cls: Any = StableDiffusionXLPipeline, seed: int = 0, scheduler: Any = None, network: Any = None,
         **more: Any) -> Any:
    pair = dict.fromkeys(("text_encoder_2", "tokenizer_2"))
    scheduler = scheduler or EulerDiscreteScheduler.from_config(ddim().config)
    return quiet(cls(vae=deep_vae(), unet=network or unet_xl(seed), scheduler=scheduler,
                     add_watermarker=False, **{**BARE, **pair, **more}))


def control(net: UNet2DConditionModel) -> ControlNetModel:
    made = ControlNetModel.from_unet(net, conditioning_embedding_out_channels=(2, 2, 2, 2), load_weights_from_unet=False)
    return calm(awaken(made, 5))


def sd_control(seed: int = 0) -> Any:
    net = unet(seed)
    return sd(StableDiffusionControlNetPipeline, network=net, controlnet=control(net))


def sdxl_control(seed: int = 0) -> Any:
    net = unet_xl(seed)
    return sdxl(StableDiffusionXLControlNetPipeline, network=net, controlnet=control(net))


def sd_adapter(seed: int = 0) -> Any:
    made = T2IAdapter(channels=[8, 16], num_res_blocks=1)
    return quiet(StableDiffusionAdapterPipeline.from_pipe(sd(seed=seed), adapter=awaken(made, 5)))


def upscale(seed: int = 0) -> Any:
    """A network that is given a small picture as well, and the level of its noise as a class."""
    net = unet(seed, in_channels=7, num_class_embeds=1000, only_cross_attention=[True, False])
    bare = dict.fromkeys(("text_encoder", "tokenizer", "feature_extractor"))
    return quiet(StableDiffusionUpscalePipeline(
        vae=deep_vae(), unet=net, low_res_scheduler=DDPMScheduler(), scheduler=ddim(prediction_type="v_prediction"),
        safety_checker=None, watermarker=None, **bare))


def lcm(seed: int = 0) -> Any:
    return sd(LatentConsistencyModelPipeline, scheduler=LCMScheduler(), network=unet(seed, time_cond_proj_dim=6))


def sd_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {**_text(seeds, 100, False), **_negative(seeds, False), "generator": generators(seeds), "height": SIDE,
            "width": SIDE, "guidance_scale": 4.0, "num_inference_steps": 8, "output_type": "latent", **more}


def sdxl_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return sd_call(seeds, **{**_text(seeds, 100, True), **_negative(seeds, True), **more})


def sized_by_image(call: Any) -> Any:
    """`call` of a pipeline whose picture tells the size."""
    made = from_image(call)
    return lambda seeds=(8, 9), **more: {n: v for n, v in made(seeds, **more).items() if n not in ("height", "width")}


def upscale_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    size = {"height": more.pop("height", 8), "width": more.pop("width", 8)}
    values = from_image(sd_call)(seeds, **size, **more)
    return {name: value for name, value in values.items() if name not in ("height", "width", "strength")}


def lcm_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {name: value for name, value in sd_call(seeds, **more).items() if not name.startswith("negative")}


MORE = {case.name: case for case in (
    Case("sd", sd, sd_call, True),
    Case("sdxl", sdxl, sdxl_call, True),
    Case("sd-img2img", lambda **kw: sd(StableDiffusionImg2ImgPipeline, **kw), sized_by_image(sd_call), True),
    Case("sd-inpaint", lambda seed=0: sd(StableDiffusionInpaintPipeline, network=unet(seed, in_channels=9)),
         from_image(sd_call, inpaint=True), True),
    Case("sd-control", sd_control, controlled(sd_call, "image", controlnet_conditioning_scale=0.5), True),
    Case("sd-adapter", sd_adapter, controlled(sd_call, "image", adapter_conditioning_scale=0.5), True),
    Case("sd-upscale", upscale, upscale_call, True),
    Case("sdxl-img2img", lambda **kw: sdxl(StableDiffusionXLImg2ImgPipeline, **kw), sized_by_image(sdxl_call), True),
    Case("sdxl-inpaint", lambda **kw: sdxl(StableDiffusionXLInpaintPipeline, **kw), from_image(sdxl_call, inpaint=True),
         True),
    Case("sdxl-control", sdxl_control, controlled(sdxl_call, "image", controlnet_conditioning_scale=0.5), True),
    Case("lcm", lcm, lcm_call, False),
)}
