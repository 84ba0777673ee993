"""A small pipeline whose network has an intermediate head: what internal guidance needs, and no published class has."""

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from .small import Case, awaken, quiet, sd3_call, vae


class PatchHead(torch.nn.Module):
    """Patches of width `width` as a prediction [rows, channels, height, width]."""

    def __init__(self, width: int, patch: int, channels: int):
        super().__init__()
        self.norm, self.out = torch.nn.LayerNorm(width), torch.nn.Linear(width, patch * patch * channels)
        self.patch, self.channels = patch, channels

    def forward(self, hidden_states: torch.Tensor, height: int, width: int) -> torch.Tensor:
        parts = self.out(self.norm(hidden_states)).unflatten(2, (self.patch, self.patch, self.channels))
        grid = parts.unflatten(1, (height // self.patch, width // self.patch))  # [rows, h, w, p, q, channels]
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


class HeadedTransformer(SD3Transformer2DModel):
    """SD3's transformer with a head behind its second block."""

    def __init__(self, **config: Any):
        super().__init__(**config)
        self.early_head = PatchHead(self.inner_dim, self.config.patch_size, self.out_channels)

    def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None,
                pooled_projections: torch.Tensor | None = None, timestep: torch.Tensor | None = None,
                block_controlnet_hidden_states: list | None = None, joint_attention_kwargs: dict[str, Any] | None = None,
                return_dict: bool = True, skip_layers: list[int] | None = None) -> Any:
        height, width = hidden_states.shape[-2:]
        x, text = self.pos_embed(hidden_states).contiguous(), self.context_embedder(encoder_hidden_states)
        time = self.time_text_embed(timestep, pooled_projections)
        for at, block in enumerate(self.transformer_blocks):
            text, x = block(hidden_states=x, encoder_hidden_states=text, temb=time, joint_attention_kwargs=None)
            if at == 1:
                self.early_head(x, height, width)
        patch = self.config.patch_size
        grid = self.proj_out(self.norm_out(x, time)).unflatten(1, (height // patch, width // patch))
        parts = grid.unflatten(3, (patch, patch, self.out_channels))
        sample = parts.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)


def headed(layers: int = 4, seed: int = 0) -> StableDiffusion3Pipeline:
    """A pipeline of Stable Diffusion 3 around it."""
    net = HeadedTransformer(sample_size=8, patch_size=2, in_channels=4, num_layers=layers, attention_head_dim=8,
                            num_attention_heads=2, joint_attention_dim=12, caption_projection_dim=16,
                            pooled_projection_dim=10, out_channels=4, pos_embed_max_size=8, qk_norm="rms_norm")
    return quiet(StableDiffusion3Pipeline(
        transformer=awaken(net, seed), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None))


HEADED = Case("headed", headed, sd3_call, True)
