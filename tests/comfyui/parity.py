"""The same small weights in diffusers and in ComfyUI, and one run of each from the same noise over the same levels."""

from typing import Any

import comfy.model_detection
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

from emag.testing import small
from smallcomfy import wrapped

CPU = torch.device("cpu")


def sd3() -> Any:
    """A small SD3 pipeline whose weights ComfyUI reads: heads of width 64, as many as blocks."""
    pipe = small.sd3(attention_head_dim=64, num_attention_heads=4, caption_projection_dim=256, in_channels=16,
                     out_channels=16, joint_attention_dim=24, pooled_projection_dim=20)
    pipe.vae = small.vae(16)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return pipe


def flux() -> Any:
    """A small Flux pipeline of 16 latent channels."""
    net = FluxTransformer2DModel(patch_size=1, in_channels=64, num_layers=2, num_single_layers=3, attention_head_dim=16,
                                 num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=20,
                                 guidance_embeds=True, axes_dims_rope=(4, 6, 6))
    pipe = small.flux()
    pipe.transformer, pipe.vae = small.awaken(net), small.vae(16)
    pipe.register_modules(transformer=pipe.transformer, vae=pipe.vae)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return pipe


COMFY_FLUX = dict(in_channels=16, out_channels=16, vec_in_dim=20, context_in_dim=24, hidden_size=32, mlp_ratio=4.0,
                  num_heads=2, depth=2, depth_single_blocks=3, axes_dim=[4, 6, 6], theta=10000, patch_size=2, qkv_bias=True,
                  guidance_embed=True, txt_ids_dims=[])


def converted(network: torch.nn.Module, settings: dict[str, Any] | None = None) -> Any:
    """A diffusers network as ComfyUI's model; `settings` of ComfyUI's Flux where it cannot tell them from the weights."""
    own = {name: value.clone() for name, value in network.state_dict().items()}  # it writes into what it is given
    weights = comfy.model_detection.convert_diffusers_mmdit(own, "")
    config = (comfy.model_detection.model_config_from_unet(weights, "") if settings is None else
              comfy.supported_models.Flux({**comfy.supported_models.Flux.unet_config, **settings}))
    config.unet_config["dtype"] = torch.float32
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(weights, "", device=CPU)
    missing, _ = model.diffusion_model.load_state_dict(weights, strict=False)
    assert not missing, missing
    return wrapped(model, seed=None)


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def comfy_latents(model: Any, noise: torch.Tensor, sigmas: torch.Tensor, positive: Any, negative: Any,
                  cfg: float) -> torch.Tensor:
    """What ComfyUI's Euler sampler gives, as the network's own latents."""
    out = comfy.sample.sample_custom(model, noise, cfg, comfy.samplers.sampler_object("euler"), sigmas, positive, negative,
                                     torch.zeros_like(noise), disable_pbar=True, seed=0)
    return model.model.process_latent_in(out)
