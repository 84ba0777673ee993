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
    """One small model: ComfyUI's configuration class, its network's settings, the latents' shape."""

    name: str
    config: str
    network: dict[str, Any]
    shape: tuple[int, ...]
    text: int = TEXT
    layers: tuple[int, ...] = (1, 2)


CONTEXT = {"target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": 192}}
SD3 = dict(in_channels=16, patch_size=2, depth=3, num_blocks=4, input_size=None, adm_in_channels=POOLED, num_patches=64,
           pos_embed_max_size=8, context_embedder_config=CONTEXT)
FLUX = dict(in_channels=16, out_channels=16, vec_in_dim=POOLED, context_in_dim=TEXT, hidden_size=96, mlp_ratio=2.0,
            num_heads=3, depth=2, depth_single_blocks=2, axes_dim=[8, 12, 12], theta=10000, patch_size=2, qkv_bias=True,
            guidance_embed=True, txt_ids_dims=[])
IMAGE = (1, 16, 8, 8)
SMALL = {one.name: one for one in (
    Small("sd3", "SD3", SD3, IMAGE),
    Small("sd3.5-medium", "SD3", SD3 | dict(qk_norm="rms", x_block_self_attn_layers=[0, 1]), IMAGE),
    Small("flux", "Flux", FLUX, IMAGE),
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
        awaken(model.diffusion_model, seed)
        generator = torch.Generator().manual_seed(seed)
        for name, buffer in model.diffusion_model.named_buffers():
            if "pos_embed" in name and buffer.is_floating_point():
                buffer.normal_(0, 0.5, generator=generator)
    model.eval()
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def conditioning(seed: int, width: int = TEXT, length: int = 6, rows: int = 1, **more: Any) -> list[Any]:
    """A prompt's conditioning, drawn."""
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(rows, POOLED, generator=generator)
    return [[torch.randn(rows, length, width, generator=generator), {"pooled_output": pooled, **more}]]


def sample(model: Any, small: Small, steps: int = 6, cfg: float = 4.0, sampler: str = "euler", scheduler: str = "simple",
           positive: Any = None, negative: Any = None, rows: int = 1, seed: int = 1, **more: Any) -> torch.Tensor:
    """The latents of one sampler's run."""
    shape = (rows, *small.shape[1:])
    noise = torch.cat([torch.randn(small.shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(rows)])
    positive = positive or conditioning(2, small.text)
    negative = negative or conditioning(3, small.text)
    return comfy.sample.sample(model, noise, steps, cfg, sampler, scheduler, positive, negative, torch.zeros(shape), seed=seed,
                               disable_pbar=True, **more)
