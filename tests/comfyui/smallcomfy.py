"""Small random models of ComfyUI's own classes, not degenerate, and one sampler's run of each."""

from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.supported_models as models
import torch

from emag.testing.small import awaken

TEXT, POOLED = 48, 32


@dataclass(frozen=True)
class Small:
    """One small model: ComfyUI's configuration class, its network's settings, the latents' shape; what else of a prompt it
    takes, with shapes."""

    name: str
    config: str
    network: dict[str, Any]
    shape: tuple[int, ...]
    text: int = TEXT
    layers: tuple[int, ...] = (1, 2)
    extra: tuple[tuple[str, tuple[int, ...]], ...] = ()


CONTEXT = {"target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": 192}}
SD3 = dict(in_channels=16, patch_size=2, depth=3, num_blocks=4, input_size=None, adm_in_channels=POOLED, num_patches=64,
           pos_embed_max_size=8, context_embedder_config=CONTEXT)
FLUX = dict(in_channels=16, out_channels=16, vec_in_dim=POOLED, context_in_dim=TEXT, hidden_size=96, mlp_ratio=2.0,
            num_heads=3, depth=2, depth_single_blocks=2, axes_dim=[8, 12, 12], theta=10000, patch_size=2, qkv_bias=True,
            guidance_embed=True, txt_ids_dims=[])
IMAGE = (1, 16, 8, 8)
FLUX2 = FLUX | dict(image_model="flux2", in_channels=128, out_channels=128, patch_size=1, vec_in_dim=None,
                    guidance_embed=False, global_modulation=True, mlp_silu_act=True, ops_bias=False, qkv_bias=False,
                    txt_ids_dims=[3],
                    axes_dim=[8, 8, 8, 8])
CHROMA = dict(in_channels=64, out_channels=64, context_in_dim=TEXT, hidden_size=96, mlp_ratio=2.0, num_heads=3, depth=2,
              depth_single_blocks=2, axes_dim=[8, 12, 12], theta=10000, patch_size=2, qkv_bias=True, in_dim=64, out_dim=96,
              hidden_dim=32, n_layers=2, txt_ids_dims=[], vec_in_dim=None)
SDXL = dict(image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 1], channel_mult=[1, 2],
            transformer_depth=[0, 1], transformer_depth_output=[0, 0, 1, 1], transformer_depth_middle=1, context_dim=TEXT,
            adm_in_channels=POOLED + 6 * 256, num_classes="sequential", num_head_channels=16, use_spatial_transformer=True,
            legacy=False, use_linear_in_transformer=True)
SD15 = SDXL | dict(adm_in_channels=None, num_classes=None, use_linear_in_transformer=False, transformer_depth=[1, 1],
                   transformer_depth_output=[1, 1, 1, 1], use_temporal_attention=False)
QWEN = dict(in_channels=64, out_channels=16, num_layers=3, attention_head_dim=32, num_attention_heads=2,
            joint_attention_dim=TEXT, pooled_projection_dim=POOLED, axes_dims_rope=(8, 12, 12))
WAN = dict(model_type="t2v", in_dim=16, dim=64, ffn_dim=64, freq_dim=32, text_dim=TEXT, out_dim=16, num_heads=2,
           num_layers=3, text_len=8)
LTX = dict(in_channels=128, cross_attention_dim=64, attention_head_dim=32, num_attention_heads=2, caption_channels=TEXT,
           num_layers=3)
HUNYUAN = dict(in_channels=16, out_channels=16, vec_in_dim=POOLED, context_in_dim=TEXT, hidden_size=96, mlp_ratio=2.0,
               num_heads=3, depth=2, depth_single_blocks=2, axes_dim=[8, 12, 12], theta=256, patch_size=[1, 2, 2],
               qkv_bias=True, guidance_embed=True, byt5=False, use_cond_type_embedding=False, vision_in_dim=None,
               meanflow=False, meanflow_sum=False)
LUMINA = dict(patch_size=2, in_channels=16, dim=96, n_layers=3, n_refiner_layers=1, n_heads=3, n_kv_heads=1, multiple_of=32,
              qk_norm=True, cap_feat_dim=TEXT, axes_dims=[8, 12, 12], axes_lens=[100, 64, 64])
ZIMAGE = LUMINA | dict(dim=256, n_heads=8, n_kv_heads=8, pad_tokens_multiple=32, z_image_modulation=True, time_scale=1000.0)
HIDREAM = dict(patch_size=2, in_channels=16, out_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=32,
               num_attention_heads=2, caption_channels=[TEXT, TEXT], text_emb_dim=POOLED, axes_dims_rope=(8, 12, 12),
               max_resolution=(32, 32), llama_layers=[0, 1, 0, 1])
SMALL = {one.name: one for one in (
    Small("sd3", "SD3", SD3, IMAGE),
    Small("sd3.5-medium", "SD3", SD3 | dict(qk_norm="rms", x_block_self_attn_layers=[0, 1]), IMAGE),
    Small("sd3.5-large", "SD3", SD3 | dict(qk_norm="rms"), IMAGE),
    Small("flux", "Flux", FLUX, IMAGE),
    Small("flux2", "Flux2", FLUX2, (1, 128, 4, 4)),
    Small("chroma", "Chroma", CHROMA, IMAGE),
    Small("qwen-image", "QwenImage", QWEN, (1, 16, 1, 8, 8)),
    Small("wan2.1", "WAN21_T2V", WAN, (1, 16, 2, 8, 8)),
    Small("wan2.2", "WAN22_T2V", WAN | dict(in_dim=48, out_dim=48), (1, 48, 2, 8, 8)),
    Small("ltx", "LTXV", LTX, (1, 128, 2, 4, 4), extra=(("attention_mask", (1, 6)),)),
    Small("hunyuan-video", "HunyuanVideo", HUNYUAN, (1, 16, 2, 8, 8)),
    Small("lumina2", "Lumina2", LUMINA, IMAGE),
    Small("z-image", "ZImage", ZIMAGE, (1, 16, 8, 12)),
    Small("hidream", "HiDream", HIDREAM, IMAGE, extra=(("conditioning_llama3", (1, 2, 6, TEXT)),)),
    Small("sdxl", "SDXL", SDXL, (1, 4, 8, 8)),
    Small("sd1.5", "SD15", SD15, (1, 4, 8, 8)),
)}


def build(small: Small, seed: int = 0) -> Any:
    """A `ModelPatcher` on the CPU in fp32."""
    kind = getattr(models, small.config)
    config = kind({**kind.unet_config, **small.network})
    config.unet_config["dtype"] = torch.float32
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=torch.device("cpu"))
    return wrapped(model, seed)


def wrapped(model: Any, seed: int | None = 0) -> Any:
    """A model of ComfyUI as a `ModelPatcher`, its weights drawn unless seed is None."""
    if seed is not None:
        draw_weights(model.diffusion_model, seed)
    model.eval()
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def draw_weights(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights that hide no bug, what ComfyUI would have loaded as buffers too."""
    awaken(module, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, gain in module.named_parameters():
        if name.endswith(".scale") and gain.ndim == 1:  # an older name of norms' weights
            gain.data.normal_(1.5, 0.2, generator=generator)
    for name, buffer in module.named_buffers():
        if "pos_embed" in name and buffer.is_floating_point():
            buffer.normal_(0, 0.5, generator=generator)
    return module


def conditioning(seed: int, width: int = TEXT, length: int = 6, rows: int = 1, **more: Any) -> list[Any]:
    """A prompt's conditioning, drawn."""
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(rows, POOLED, generator=generator)
    return [[torch.randn(rows, length, width, generator=generator), {"pooled_output": pooled, **more}]]


def prompt(small: Small, seed: int) -> list[Any]:
    """A prompt's conditioning for one model."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in small.extra}
    masks = {name: torch.ones_like(value, dtype=torch.long) for name, value in drawn.items() if name.endswith("mask")}
    return conditioning(seed, small.text, **{**drawn, **masks})


def sample(model: Any, small: Small, steps: int = 6, cfg: float = 4.0, sampler: str = "euler", scheduler: str = "simple",
           positive: Any = None, negative: Any = None, rows: int = 1, seed: int = 1, **more: Any) -> torch.Tensor:
    """The latents of one sampler's run."""
    shape = (rows, *small.shape[1:])
    noise = torch.cat([torch.randn(small.shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(rows)])
    positive = positive or prompt(small, 2)
    negative = negative or prompt(small, 3)
    return comfy.sample.sample(model, noise, steps, cfg, sampler, scheduler, positive, negative, torch.zeros(shape),
                               seed=seed, disable_pbar=True, **more)
