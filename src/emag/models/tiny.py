"""The small model of pictures by class: pixels instead of latents, prompts such as "a photo of a frog"."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from .pipeline import SmallPipeline, call, uniform_sigmas

__all__ = ["PixelVAE", "TinyPipeline", "uniform_sigmas"]

GUIDANCE_SCALE = 2.5


class PixelVAE(ModelMixin, ConfigMixin):
    """The identity in place of an autoencoder: latents are pixels in [-1, 1] times `scaling_factor`."""

    @register_to_config
    def __init__(self, scaling_factor: float = 2.0, shift_factor: float = 0.0, block_out_channels: tuple = (1,),
                 latent_channels: int = 3):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()), requires_grad=False)  # what device and dtype are read from

    def decode(self, latents: torch.Tensor, return_dict: bool = False, **_: Any) -> tuple[torch.Tensor]:
        """Pixels [batch, 3, height, width] of latents already divided by the scaling factor."""
        return (latents,)


class TinyPipeline(SmallPipeline):
    """`SmallPipeline` on pixels, for prompts that name one of a few classes ("a photo of a frog"); guidance_scale is 2.5."""

    emag_model = "tiny"
    __call__ = call(guidance_scale=GUIDANCE_SCALE)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that a prompt can ask for."""
        return tuple(self.text_encoder_3.config.classes)
