"""The same small weights in diffusers and in ComfyUI, and one run of each from the same noise over the same levels."""

from typing import Any

import comfy.model_detection
import comfy.sample
import comfy.samplers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from emag.testing import small
from smallcomfy import wrapped

CPU = torch.device("cpu")


def sd3() -> Any:
    """A small SD3 pipeline whose weights ComfyUI reads: heads of width 64, as many as blocks."""
    pipe = small.sd3(attention_head_dim=64, num_attention_heads=4, caption_projection_dim=256, in_channels=16, out_channels=16,
                     joint_attention_dim=24, pooled_projection_dim=20)
    pipe.vae = small.vae(16)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return pipe


def converted(network: torch.nn.Module) -> Any:
    """A diffusers network as ComfyUI's model."""
    own = {name: value.clone() for name, value in network.state_dict().items()}  # it writes into what it is given
    weights = comfy.model_detection.convert_diffusers_mmdit(own, "")
    config = comfy.model_detection.model_config_from_unet(weights, "")
    config.unet_config["dtype"] = torch.float32
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(weights, "", device=CPU)
    missing, _ = model.diffusion_model.load_state_dict(weights, strict=False)
    assert not missing, missing
    return wrapped(model, seed=None)


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def comfy_latents(model: Any, noise: torch.Tensor, sigmas: torch.Tensor, positive: Any, negative: Any, cfg: float) -> torch.Tensor:
    """What ComfyUI's Euler sampler gives, as the network's own latents."""
    out = comfy.sample.sample_custom(model, noise, cfg, comfy.samplers.sampler_object("euler"), sigmas, positive, negative,
                                     torch.zeros_like(noise), disable_pbar=True, seed=0)
    return model.model.process_latent_in(out)
