"""A small Qwen-Image 2.1 pipeline, as in `small`."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)

from .small import Case, awaken, quiet
from .small_joint import HEADS, qwen_call


class Reader:
    """A stand-in for the reader of texts and pictures, which is asked how it begins."""

    tokenizer = SimpleNamespace(encode=lambda text: [0])

    def apply_chat_template(self, *given: Any, **more: Any) -> list[list[int]]:
        """No words."""
        return [[]]


def qwen21(layers: int = 3, seed: int = 0) -> QwenImage21Pipeline:
    torch.manual_seed(0)
    decoder = AutoencoderKLQwenImage21(base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1,
                                       temperal_downsample=[False], latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()
    net = QwenImage21Transformer2DModel(in_channels=4, out_channels=4, num_layers=layers, context_in_dim=12,
                                        axes_dims_rope=(4, 6, 6), **HEADS)
    return quiet(QwenImage21Pipeline(transformer=awaken(net, seed), vae=decoder, text_encoder=None, processor=Reader(),
                                     scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)))


def qwen21_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Pictures of four by four tokens."""
    return qwen_call(seeds, **{"height": 64, "width": 64, **more})


MORE: dict[str, Case] = {"qwen-2.1": Case("qwen-2.1", qwen21, qwen21_call, True, scale="true_cfg_scale")}
