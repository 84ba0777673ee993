"""A small autoencoder: 64 x 64 pixels to 16 x 16 latents and back."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


class Residual(nn.Module):
    """Two convolutions beside the identity; at first nothing is added."""

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(8, width) for _ in range(2)])
        self.convs = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
        nn.init.zeros_(self.convs[1].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for norm, conv in zip(self.norms, self.convs):
            y = conv(nn.functional.silu(norm(y)))
        return x + y


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Pixels [batch, 3, h, w] in [-1, 1] to latents [batch, channels, h / 4, w / 4] and back.

    width, fine: channels at a quarter and at half of the size. encoder_depth, decoder_depth: blocks at a quarter.
    Latents are white (`set_whitening`), so scaling_factor is 1. block_out_channels is what pipelines read the factor 4 from.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 4, width: int = 64, fine: int = 32, encoder_depth: int = 1,
                 decoder_depth: int = 3, scaling_factor: float = 1.0, shift_factor: float = 0.0,
                 block_out_channels: tuple[int, ...] = (1, 1, 1)):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(48, width, 3, padding=1), *(Residual(width) for _ in range(encoder_depth)),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, latent_channels, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1), *(Residual(width) for _ in range(decoder_depth)),
            nn.Conv2d(width, 4 * fine, 1), nn.PixelShuffle(2), Residual(fine),
            nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, 12, 3, padding=1), nn.PixelShuffle(2))
        self.white = nn.Conv2d(latent_channels, latent_channels, 1)
        self.colour = nn.Conv2d(latent_channels, latent_channels, 1)
        for conv in (self.white, self.colour):
            nn.init.eye_(conv.weight.data[:, :, 0, 0])
            nn.init.zeros_(conv.bias)
            conv.requires_grad_(False)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """White latents of pixels in [-1, 1]."""
        return self.white(self.encoder(pixels))

    def decode(self, latents: torch.Tensor, return_dict: bool = False, **_: Any) -> tuple[torch.Tensor]:
        """Pixels of latents."""
        return (self.decoder(self.colour(latents)),)

    @torch.no_grad()
    def set_whitening(self, raw: torch.Tensor, mean: torch.Tensor | None = None, scale: torch.Tensor | None = None) -> None:
        """Make the latents of images like those with raw latents [n, channels, h, w] white: mean 0 and unit covariance.

        mean, scale [channels]: what the decoder was trained on is (raw - mean) scale; None: raw.
        """
        count = raw.shape[1]
        mean, scale = (torch.zeros(count) if mean is None else mean), (torch.ones(count) if scale is None else scale)
        read = (raw.permute(0, 2, 3, 1).reshape(-1, count).double() - mean.double()) * scale.double()
        middle, (values, vectors) = read.mean(0), torch.linalg.eigh(read.T.cov())
        white, colour = (vectors * values.rsqrt()) @ vectors.T, (vectors * values.sqrt()) @ vectors.T
        self.white.weight.copy_((white * scale)[:, :, None, None])
        self.white.bias.copy_(-(white @ (middle + mean * scale)))
        self.colour.weight.copy_(colour[:, :, None, None])
        self.colour.bias.copy_(middle)
