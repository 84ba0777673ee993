"""Latents between what networks work on, of about unit variance, and what an autoencoder takes and gives."""

from typing import Any

import torch
import torch.nn.functional as F

PATCH = 2
"""FLUX.2 normalises patches of 2x2 latents, as its network takes them."""


def unscaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents [batch, channels, (frames,) height, width] as the autoencoder takes them."""
    if hasattr(vae, "bn"):
        return _unnormed(vae, latents)
    scale = getattr(vae.config, "scaling_factor", None) or 1.0
    mean, std = (_by_channel(vae, f"latents_{name}", latents) for name in ("mean", "std"))
    if mean is not None and std is not None:
        return latents * std / scale + mean
    return latents / scale + (getattr(vae.config, "shift_factor", None) or 0.0)


def scaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """`unscaled` undone: latents as the autoencoder gives them, as networks work on them."""
    zero, one = unscaled(vae, torch.zeros_like(latents)), unscaled(vae, torch.ones_like(latents))
    return (latents - zero) / (one - zero)


def _by_channel(vae: Any, name: str, latents: torch.Tensor) -> torch.Tensor | None:
    """One number a channel, of the configuration (some SDXL models, Wan) or the weights (LTX); None where there is none."""
    found = getattr(vae.config, name, None)
    found = vae._buffers.get(name) if found is None and isinstance(vae, torch.nn.Module) else found
    return None if found is None else torch.as_tensor(found).to(latents).view(1, -1, *[1] * (latents.ndim - 2))


def _unnormed(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The batch norm of FLUX.2's patches undone by its running mean and variance."""
    mean = vae.bn.running_mean.view(1, -1, 1, 1).to(latents)
    std = (vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).sqrt().to(latents)
    return F.pixel_shuffle(F.pixel_unshuffle(latents, PATCH) * std + mean, PATCH)
