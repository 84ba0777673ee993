"""Small pipelines whose text has an attention or a stream of its own kind, and those that start from an image."""

from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxControlImg2ImgPipeline,
    FluxControlInpaintPipeline,
    FluxControlNetImg2ImgPipeline,
    FluxControlNetInpaintPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3ControlNetModel,
    StableDiffusion3ControlNetInpaintingPipeline,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
)

from .small import TEXT, Case, awaken, flux, flux_call, generators, noise, quiet, sd3, sd3_call, true_cfg_call, vae

CLIP, T5 = 3, 4


def _like(cls: Any, pipe: Any, **more: Any) -> Any:
    """A pipeline of another class with the components of `pipe`."""
    return quiet(cls.from_pipe(pipe, **more))


def sd3_from_image(cls: Any, channels: int = 4, **settings: Any) -> Any:
    made = sd3(in_channels=channels, **{"out_channels": min(channels, 16), **settings})
    made.vae = vae(min(channels, 16))  # of 33, 16 are x_t, 16 a masked picture and one a mask
    return _like(cls, made)


def sd3_control(cls: Any = StableDiffusion3ControlNetPipeline, **settings: Any) -> Any:
    made = sd3(**settings)
    last = made.vae.encoder.conv_out
    last.weight.data[4:], last.bias.data[4:] = 0, -30.0  # encodes without noise
    config = {**made.transformer.config, "num_layers": 2}
    config["extra_conditioning_channels"] = int(cls is StableDiffusion3ControlNetInpaintingPipeline)
    net = SD3ControlNetModel.from_config(config)
    return _like(cls, made, controlnet=awaken(net, 5))


def flux_control(cls: Any = FluxControlNetPipeline, **settings: Any) -> Any:
    made = flux(**settings)
    net = FluxControlNetModel.from_config({**made.transformer.config, "num_layers": 1, "num_single_layers": 1})
    return _like(cls, made, controlnet=awaken(net, 5))


def flux_wide(cls: Any, channels: int, layers: int = 2, single: int = 3, seed: int = 0) -> Any:
    """Flux whose network gets a picture, or one and a mask, as further channels."""
    made = flux(layers, single, seed)
    config = {name: value for name, value in made.transformer.config.items() if not name.startswith("_")}
    net = FluxTransformer2DModel(**{**config, "in_channels": channels, "out_channels": 16})
    made.transformer = awaken(net, seed)
    return _like(cls, made)


def auraflow(layers: int = 2, single: int = 2, seed: int = 0) -> AuraFlowPipeline:
    net = AuraFlowTransformer2DModel(sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=layers,
                                     num_single_dit_layers=single, attention_head_dim=8, num_attention_heads=2,
                                     joint_attention_dim=12, caption_projection_dim=16, pos_embed_max_size=64)
    awaken(net, seed)
    for name, parameter in net.named_parameters():
        if ".ff" in name:  # the stream has no norm of its own: keep what is added to it small
            parameter.data.mul_(0.3)
    return quiet(AuraFlowPipeline(tokenizer=None, text_encoder=None, vae=vae(), transformer=net,
                                  scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73)))


def hunyuan(layers: int = 6, seed: int = 0) -> HunyuanDiTPipeline:
    net = HunyuanDiT2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=8,
                            hidden_size=16, num_layers=layers, cross_attention_dim=12, cross_attention_dim_t5=16,
                            pooled_projection_dim=8, text_len=CLIP, text_len_t5=T5)
    torch.manual_seed(0)
    eightfold = AutoencoderKL(block_out_channels=(2, 2, 2, 2), norm_num_groups=1, latent_channels=4,
                              down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    return quiet(HunyuanDiTPipeline(vae=eightfold.eval(), text_encoder=None, tokenizer=None, transformer=awaken(net, seed),
                                    scheduler=DDPMScheduler(), safety_checker=None, feature_extractor=None,
                                    requires_safety_checker=False))


def sana(layers: int = 4, seed: int = 0) -> SanaPipeline:
    net = SanaTransformer2DModel(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8,
                                 num_layers=layers, num_cross_attention_heads=2, cross_attention_head_dim=8,
                                 cross_attention_dim=16, caption_channels=12, sample_size=8, patch_size=1)
    deep = AutoencoderDC(latent_channels=4, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
                         encoder_block_out_channels=(4,) * 3, decoder_block_out_channels=(4,) * 3,
                         encoder_layers_per_block=(1,) * 3, decoder_layers_per_block=(1,) * 3,
                         encoder_qkv_multiscales=((),) * 3, decoder_qkv_multiscales=((),) * 3)
    steps = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return quiet(SanaPipeline(tokenizer=None, text_encoder=None, vae=deep.eval(), transformer=awaken(net, seed),
                              scheduler=steps))


def pictures(seeds: tuple[int, ...], height: int = 8, width: int = 8) -> torch.Tensor:
    """Pictures [seeds, 3, height, width] in [-1, 1]."""
    return torch.cat([noise(300 + seed, 1, 3, height, width).tanh() for seed in seeds])


def masks(seeds: tuple[int, ...], height: int = 8, width: int = 8) -> torch.Tensor:
    """Right halves to be filled in."""
    half = torch.zeros(len(seeds), 1, height, width)
    half[..., width // 2:] = 1
    return half


def from_image(call: Any, inpaint: bool = False) -> Any:
    """`call` with a picture to start from, of 8 steps the last 6."""
    def made(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
        values = call(seeds, **{"num_inference_steps": 8, "strength": 0.75, **more})
        size = values["height"], values["width"]
        values.setdefault("image", pictures(seeds, *size))
        return values | ({"mask_image": masks(seeds, *size)} if inpaint else {})

    return made


def controlled(call: Any, key: str = "control_image", **shared: Any) -> Any:
    """`call` with a picture for the ControlNet, which some pipelines encode with noise of the global generator."""
    def made(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
        values = call(seeds, **{**shared, **more})
        torch.manual_seed(0)
        return {**values, key: pictures(seeds, values["height"], values["width"])}

    return made


def _masked(call: Any) -> Any:
    """`call` with a mask for the ControlNet."""
    return lambda seeds=(8, 9), **more: {**call(seeds, **more), "control_mask": masks(seeds)}


def aura_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Embeddings with their masks; AuraFlow has no pooled ones."""
    plain = {name: value for name, value in sd3_call(seeds).items() if "pooled" not in name}
    ones = torch.ones(len(seeds), TEXT)
    return {**plain, "prompt_attention_mask": ones, "negative_prompt_attention_mask": ones.clone(), **more}


def sana_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    ones = torch.ones(len(seeds), TEXT)
    ones[:, -1] = 0
    return aura_call(seeds, **{"prompt_attention_mask": ones, "negative_prompt_attention_mask": ones.clone(),
                               "negative_prompt": None, "height": 32, "width": 32, "use_resolution_binning": False, **more})


def hunyuan_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    texts: dict[str, Any] = {}
    for sign, base in (("", 100), ("negative_", 900)):
        for end, length, width in (("", CLIP, 12), ("_2", T5, 16)):
            rows = [noise(base + len(end) + (seed if not sign else 0), 1, length, width) for seed in seeds]
            mask = torch.ones(len(seeds), length, dtype=torch.long)
            mask[:, -1] = 0
            texts |= {f"{sign}prompt_embeds{end}": torch.cat(rows), f"{sign}prompt_attention_mask{end}": mask}
    return {**texts, "generator": generators(seeds), "height": 64, "width": 64, "guidance_scale": 4.0,
            "num_inference_steps": 8, "output_type": "latent", "use_resolution_binning": False, **more}


def short(call: Any, **shared: Any) -> Any:
    """`call` in six steps."""
    return lambda seeds=(8, 9), **more: call(seeds, **{"num_inference_steps": 6, **shared, **more})


MORE = {case.name: case for case in (
    Case("sd3-img2img", lambda **kw: sd3_from_image(StableDiffusion3Img2ImgPipeline, **kw), from_image(sd3_call), True),
    Case("sd3-inpaint", lambda **kw: sd3_from_image(StableDiffusion3InpaintPipeline, 16, **kw),
         from_image(sd3_call, inpaint=True), True),
    Case("sd3-control", sd3_control, controlled(short(sd3_call), controlnet_conditioning_scale=0.3), True),
    Case("sd3.5", lambda **kw: sd3(dual_attention_layers=(0, 1), **kw), short(sd3_call), True),
    Case("flux-img2img", lambda **kw: _like(FluxImg2ImgPipeline, flux(**kw)), from_image(flux_call), False),
    Case("flux-img2img-cfg", lambda **kw: _like(FluxImg2ImgPipeline, flux(guidance=False, **kw)),
         from_image(true_cfg_call), True, scale="true_cfg_scale"),
    Case("flux-inpaint", lambda **kw: _like(FluxInpaintPipeline, flux(guidance=False, **kw)),
         from_image(true_cfg_call, inpaint=True), True, scale="true_cfg_scale"),
    Case("flux-control", lambda **kw: flux_control(guidance=False, **kw),
         controlled(short(true_cfg_call), controlnet_conditioning_scale=0.3), True, scale="true_cfg_scale"),
    Case("flux-control-img2img", lambda **kw: flux_control(FluxControlNetImg2ImgPipeline, **kw),
         controlled(from_image(flux_call)), False),
    Case("flux-control-inpaint", lambda **kw: flux_control(FluxControlNetInpaintPipeline, **kw),
         controlled(from_image(flux_call, inpaint=True)), False),
    Case("flux-fill", lambda **kw: flux_wide(FluxFillPipeline, 36, **kw), from_image(flux_call, inpaint=True), False),
    Case("flux-structure", lambda **kw: flux_wide(FluxControlPipeline, 32, **kw), controlled(short(flux_call)), False),
    Case("sd3-inpaint-wide", lambda **kw: sd3_from_image(StableDiffusion3InpaintPipeline, 33, **kw),
         from_image(sd3_call, inpaint=True), True),
    Case("auraflow", auraflow, short(aura_call), True),
    Case("hunyuan", hunyuan, short(hunyuan_call), True),
    Case("sana", sana, short(sana_call), True),
)}
"""Cases beside those of `small`, which most tests run over."""

FURTHER = {case.name: case for case in (
    Case("sd3-control-inpaint", lambda **kw: sd3_control(StableDiffusion3ControlNetInpaintingPipeline, **kw),
         _masked(controlled(short(sd3_call), controlnet_conditioning_scale=0.3)), True),
    Case("flux-structure-img2img", lambda **kw: flux_wide(FluxControlImg2ImgPipeline, 32, **kw),
         controlled(from_image(flux_call)), False),
    Case("flux-structure-inpaint", lambda **kw: flux_wide(FluxControlInpaintPipeline, 32, **kw),
         controlled(from_image(flux_call, inpaint=True)), False),
)}
"""Pipelines that differ from one of `MORE` in what they are called with."""
