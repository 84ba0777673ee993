"""A small pipeline of Cosmos Transfer 2.5, which makes a video in chunks, as in `small`."""

from typing import Any

import torch
from diffusers import ConfigMixin, Cosmos2_5_TransferPipeline, CosmosTransformer3DModel, ModelMixin, UniPCMultistepScheduler
from diffusers.configuration_utils import register_to_config

from .small import Case, awaken, quiet
from .small_moving import Trusting
from .small_people import film
from .small_video import Video, video_call
from .small_wan import wan_vae

CHUNK = 5
"""Frames that it makes at a time."""


class Control(ModelMixin, ConfigMixin):
    """A stand-in for its ControlNet, which wants torchvision: of what it is shown and told, a residual for each block."""

    @register_to_config
    def __init__(self, blocks: int):
        super().__init__()
        self.seen, self.told = torch.nn.Conv3d(8, 24, (1, 2, 2), (1, 2, 2)), torch.nn.Linear(12, 24)

    def forward(self, controls_latents: torch.Tensor, latents: torch.Tensor, encoder_hidden_states: Any,
                **more: Any) -> tuple[list[torch.Tensor]]:
        """One residual [rows, tokens, channels], the same for all blocks."""
        tokens = self.seen(torch.cat([controls_latents, latents], 1)).flatten(2).mT
        return [tokens + self.told(encoder_hidden_states[0]).mean(1, keepdim=True)] * self.config.blocks,


def cosmos_transfer(layers: int = 3, seed: int = 0) -> Cosmos2_5_TransferPipeline:
    """Its network attends to pictures beside the text, as that of the pretrained one."""
    net = CosmosTransformer3DModel(
        in_channels=5, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=layers, mlp_ratio=2.0,
        text_embed_dim=12, adaln_lora_dim=4, max_size=(8, 8, 8), concat_padding_mask=False, controlnet_block_every_n=1,
        img_context_dim_in=6, img_context_num_tokens=2, img_context_dim_out=24)
    steps = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return quiet(Cosmos2_5_TransferPipeline(
        text_encoder=None, tokenizer=None, transformer=awaken(net, seed), vae=wan_vae(), scheduler=steps,
        controlnet=awaken(Control(layers), seed + 1), safety_checker=Trusting()))


def cosmos_transfer_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Two chunks that share no frame."""
    own = {"controls": film(700, 32, 2 * CHUNK), "num_frames_per_chunk": CHUNK, "num_ar_conditional_frames": 0,
           "num_frames": None}
    return video_call(seeds, **{**own, **more})


MORE: dict[str, Case] = {"cosmos-transfer": Video("cosmos-transfer", cosmos_transfer, cosmos_transfer_call, True)}
