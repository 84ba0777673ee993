"""Small pipelines of further joint models, whose text and image tokens share one attention, as in `small`."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

from .small import TEXT, Case, awaken, generators, noise, quiet, vae

HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}
_PARTS: dict[str, Any] = {"text_encoder": None, "tokenizer": None}


def _scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def qwen(layers: int = 4, seed: int = 0) -> QwenImagePipeline:
    torch.manual_seed(0)
    decoder = AutoencoderKLQwenImage(base_dim=8, z_dim=4, dim_mult=[1], num_res_blocks=1, temperal_downsample=[],
                                     latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()
    net = QwenImageTransformer2DModel(in_channels=16, out_channels=4, num_layers=layers, joint_attention_dim=12,
                                      axes_dims_rope=(4, 6, 6), **HEADS)
    return quiet(QwenImagePipeline(transformer=awaken(net, seed), vae=decoder, scheduler=_scheduler(), **_PARTS))


def chroma(layers: int = 2, single: int = 3, seed: int = 0) -> ChromaPipeline:
    net = ChromaTransformer2DModel(in_channels=16, num_layers=layers, num_single_layers=single, joint_attention_dim=12,
                                   axes_dims_rope=(4, 6, 6), approximator_num_channels=16, approximator_hidden_dim=16,
                                   approximator_layers=1, **HEADS)
    return quiet(ChromaPipeline(transformer=awaken(net, seed), vae=vae(), scheduler=_scheduler(), **_PARTS))


def _flux2(cls: type, layers: int, single: int, seed: int, guidance: bool) -> Any:
    torch.manual_seed(0)
    decoder = AutoencoderKLFlux2(down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
                                 block_out_channels=(8,), layers_per_block=1, latent_channels=4, norm_num_groups=2,
                                 use_quant_conv=False, use_post_quant_conv=False).eval()
    net = Flux2Transformer2DModel(in_channels=16, num_layers=layers, num_single_layers=single, joint_attention_dim=12,
                                  axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance, **HEADS)
    return quiet(cls(transformer=awaken(net, seed), vae=decoder, scheduler=_scheduler(), **_PARTS))


def flux2(layers: int = 2, single: int = 3, seed: int = 0) -> Flux2Pipeline:
    return _flux2(Flux2Pipeline, layers, single, seed, guidance=True)


def klein(layers: int = 2, single: int = 3, seed: int = 0) -> Flux2KleinPipeline:
    return _flux2(Flux2KleinPipeline, layers, single, seed, guidance=False)


def cogview4(layers: int = 4, seed: int = 0) -> CogView4Pipeline:
    net = CogView4Transformer2DModel(in_channels=4, out_channels=4, num_layers=layers, text_embed_dim=12,
                                     time_embed_dim=16, condition_dim=4, sample_size=8, rope_axes_dim=(32, 32), **HEADS)
    return quiet(CogView4Pipeline(transformer=awaken(net, seed), vae=vae(), scheduler=_scheduler(), **_PARTS))


def _embeds(seeds: tuple[int, ...], base: int) -> torch.Tensor:
    return torch.cat([noise(base + seed, 1, TEXT, 12) for seed in seeds])


def _masks(seeds: tuple[int, ...]) -> torch.Tensor:
    masks = torch.ones(len(seeds), TEXT, dtype=torch.bool)
    masks[:, -1] = False
    return masks


def _call(seeds: tuple[int, ...], negative: bool = True) -> dict[str, Any]:
    against = {"negative_prompt_embeds": _embeds((0,) * len(seeds), 900)} if negative else {}
    return {"prompt_embeds": _embeds(seeds, 100), **against, "generator": generators(seeds), "height": 8, "width": 8,
            "num_inference_steps": 8, "output_type": "latent"}


def qwen_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {**_call(seeds), "prompt_embeds_mask": _masks(seeds), "negative_prompt_embeds_mask": _masks(seeds),
            "true_cfg_scale": 4.0, **more}


def chroma_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {**_call(seeds), "prompt_attention_mask": _masks(seeds), "negative_prompt_attention_mask": _masks(seeds),
            "guidance_scale": 4.0, **more}


def flux2_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {**_call(seeds, negative=False), "guidance_scale": 4.0, **more}


def cogview4_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return plain_call(seeds, **{"height": 16, "width": 16, **more})


def plain_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {**_call(seeds), "guidance_scale": 4.0, **more}


MORE = {case.name: case for case in (
    Case("qwen", qwen, qwen_call, True, scale="true_cfg_scale"),
    Case("chroma", chroma, chroma_call, True),
    Case("flux2", flux2, flux2_call, False),
    Case("klein", klein, plain_call, True),
    Case("cogview4", cogview4, cogview4_call, True),
)}
"""Joint models beyond `small.CASES`."""
