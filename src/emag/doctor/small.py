"""Small pipelines of every supported kind, from diffusers' own classes, with random weights that are not degenerate.

The doctor's matrix and the tests run on them: what works here works on any size of the same classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

TEXT = 5


@torch.no_grad()
def awaken(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights that hide no bug: modulation and biases away from 0, norm gains around 1, sharp attention."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2:
            parameter.copy_(noise * (1.6 / parameter[0].numel() ** 0.5 if "table" not in name else 0.4))
        elif name.endswith("weight"):
            parameter.copy_(1.5 + 0.2 * noise)
        else:
            parameter.copy_(0.2 * noise)
    return module.eval()


def vae(channels: int = 4) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=2, latent_channels=channels, in_channels=3,
                         out_channels=3, down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
                         shift_factor=0.0, scaling_factor=1.0, use_quant_conv=False, use_post_quant_conv=False).eval()


def sd3(layers: int = 4, seed: int = 0, **config: Any) -> StableDiffusion3Pipeline:
    net = SD3Transformer2DModel(**{**dict(
        sample_size=8, patch_size=2, in_channels=4, num_layers=layers, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10, out_channels=4,
        pos_embed_max_size=8, qk_norm="rms_norm"), **config})
    return quiet(StableDiffusion3Pipeline(
        transformer=awaken(net, seed), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None))


def dit(layers: int = 4, seed: int = 0) -> DiTPipeline:
    net = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
                                num_layers=layers, sample_size=8, patch_size=2, num_embeds_ada_norm=1000)
    return quiet(DiTPipeline(transformer=awaken(net, seed), vae=vae(), scheduler=DDIMScheduler(clip_sample=False)))


def pixart(cls: type = PixArtAlphaPipeline, layers: int = 4, seed: int = 0) -> Any:
    net = PixArtTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
                                   num_layers=layers, cross_attention_dim=16, sample_size=8, patch_size=2,
                                   caption_channels=12, use_additional_conditions=False)
    return quiet(cls(transformer=awaken(net, seed), vae=vae(), text_encoder=None, tokenizer=None,
                     scheduler=DPMSolverMultistepScheduler()))


def flux(layers: int = 2, single: int = 3, seed: int = 0, guidance: bool = True) -> FluxPipeline:
    net = FluxTransformer2DModel(patch_size=1, in_channels=16, num_layers=layers, num_single_layers=single,
                                 attention_head_dim=16, num_attention_heads=2, joint_attention_dim=12,
                                 pooled_projection_dim=10, guidance_embeds=guidance, axes_dims_rope=(4, 6, 6))
    return quiet(FluxPipeline(transformer=awaken(net, seed), vae=vae(), text_encoder=None, tokenizer=None,
                              text_encoder_2=None, tokenizer_2=None, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)))


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generators(seeds: tuple[int, ...]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _text(seeds: tuple[int, ...], base: int, pooled: bool) -> dict[str, torch.Tensor]:
    embeds = torch.cat([noise(base + s, 1, TEXT, 12) for s in seeds])
    return {"prompt_embeds": embeds, **({"pooled_prompt_embeds": torch.cat([noise(base + 50 + s, 1, 10) for s in seeds])}
                                        if pooled else {})}


def _negative(seeds: tuple[int, ...], pooled: bool) -> dict[str, torch.Tensor]:
    return {f"negative_{k}": v for k, v in _text((0,) * len(seeds), 900, pooled).items()}


def sd3_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {**_text(seeds, 100, True), **_negative(seeds, True), "generator": generators(seeds), "height": 8, "width": 8,
            "guidance_scale": 4.0, "num_inference_steps": 8, "output_type": "latent", **more}


def dit_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {"class_labels": [s * 7 % 1000 for s in seeds], "generator": generators(seeds), "guidance_scale": 4.0,
            "num_inference_steps": 8, "output_type": "pt", **more}


def pixart_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    masks = torch.ones(len(seeds), TEXT)
    masks[:, -1] = 0
    return {**_text(seeds, 100, False), **_negative(seeds, False), "prompt_attention_mask": masks,
            "negative_prompt": None, "negative_prompt_attention_mask": masks.clone(), "generator": generators(seeds),
            "height": 8, "width": 8, "use_resolution_binning": False, "guidance_scale": 4.0, "num_inference_steps": 8,
            "output_type": "latent", **more}


def flux_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {**_text(seeds, 100, True), "generator": generators(seeds), "height": 8, "width": 8, "guidance_scale": 3.5,
            "num_inference_steps": 8, "output_type": "latent", **more}


def true_cfg_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return flux_call(seeds, **{**_negative(seeds, True), "true_cfg_scale": 4.0, **more})


@dataclass(frozen=True)
class Case:
    """One way to drive one kind of pipeline."""

    name: str
    pipe: Callable[..., Any]
    call: Callable[..., dict[str, Any]]
    uncond: bool
    scale: str = "guidance_scale"

    def run(self, pipe: Any, seeds: tuple[int, ...] = (8, 9), **more: Any) -> torch.Tensor:
        return pipe(**self.call(seeds, **more)).images

    def depth(self, pipe: Any) -> int:
        net = pipe.transformer
        return len(net.transformer_blocks) + len(getattr(net, "single_transformer_blocks", ()))


CASES = {case.name: case for case in (
    Case("sd3", sd3, sd3_call, True),
    Case("dit", dit, dit_call, True),
    Case("pixart", pixart, pixart_call, True),
    Case("sigma", lambda **kw: pixart(PixArtSigmaPipeline, **kw), pixart_call, True),
    Case("flux", flux, flux_call, False),
    Case("true-cfg", lambda **kw: flux(guidance=False, **kw), true_cfg_call, True, scale="true_cfg_scale"),
)}


def _fused(case: Case) -> Case:
    def pipe(**settings: Any) -> Any:
        made = case.pipe(**settings)
        made.transformer.fuse_qkv_projections()
        return made

    return Case(f"{case.name}-fused", pipe, case.call, case.uncond, case.scale)


MATRIX = CASES | {case.name: case for case in map(_fused, (CASES["sd3"], CASES["pixart"], CASES["flux"]))}
"""All cases, and some with their query, key and value projections fused into one."""
