"""Small pipelines of networks that are told more of a prompt than one layer of one text encoder, as in `small`."""

import json
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers import (
    BriaFiboEditPipeline,
    BriaFiboPipeline,
    BriaFiboTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    GlmImagePipeline,
    GlmImageTransformer2DModel,
    ModelMixin,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
    PRXPipeline,
    PRXTransformer2DModel,
)

from .small import TEXT, awaken, generators, noise, quiet, vae
from .small_edits import drawn
from .small_joint import HEADS, plain_call
from .small_ragged import Ragged, valid
from .small_unet import deep_vae

CHANNELS, LAYERS = 4, 3  # of a latent; of the text encoder


class Squares(ModelMixin):
    """Encodes pictures [batch, 3, 1, height, width] by averages over squares of 16 pixels, without noise."""

    config = SimpleNamespace(latents_mean=[0.0] * CHANNELS, latents_std=[1.0] * CHANNELS, z_dim=CHANNELS)

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def encode(self, x: torch.Tensor) -> Any:
        mean = 3 * self.gain * F.avg_pool2d(x[:, :, 0], 16).repeat(1, 2, 1, 1)[:, :CHANNELS, None]
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean))


def _flow(**more: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, **more)


def fibo(cls: Any = BriaFiboPipeline, layers: int = 2, single: int = 2, seed: int = 0) -> Any:
    net = BriaFiboTransformer2DModel(in_channels=CHANNELS, num_layers=layers, num_single_layers=single,
                                     joint_attention_dim=12, text_encoder_dim=6, axes_dims_rope=[4, 6, 6], **HEADS)
    pipe = cls(transformer=awaken(net, seed), vae=Squares(), scheduler=_flow(), text_encoder=None, tokenizer=None)
    pipe.text_encoder = SimpleNamespace(dtype=torch.float32)
    pipe.get_prompt_embeds = lambda prompt, num_images_per_prompt=1, **more: _told(prompt, num_images_per_prompt)
    return quiet(pipe)


def _told(prompts: list[str], times: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]:
    """What a text encoder says: its last two layers, all its layers, which tokens are no padding."""
    seeds = [_seed(prompt) for prompt in prompts for _ in range(times)]
    layers = [torch.cat([noise(100 + seed + 20 * at, 1, TEXT, 6) for seed in seeds]) for at in range(LAYERS)]
    valid = torch.arange(TEXT) < torch.tensor([[2 + seed % (TEXT - 1)] for seed in seeds])
    return torch.cat([layers[-1], layers[-2]], -1), tuple(layers), valid.long()


def _seed(prompt: str) -> int:
    """The number that a prompt is; "" is the negative one."""
    return int(json.loads(prompt)["edit_instruction"]) if prompt.startswith("{") else int(prompt or 0)


def fibo2(layers: int = 3, seed: int = 0) -> Any:
    from diffusers import BriaFibo2Pipeline, BriaFibo2Transformer2DModel

    net = BriaFibo2Transformer2DModel(
        in_channels=CHANNELS, dim=32, n_layers=layers, n_refiner_layers=1, n_heads=2, cap_feat_dim=12,
        injection_layer_ids=(1,), perceiver_num_layers=1, min_num_gist_tokens=4, max_num_gist_tokens=8, gist_step=2,
        gist_min_text_len=4, gist_max_text_len=8, axes_dims=(4, 6, 6), axes_lens=(16, 16, 16))
    return quiet(BriaFibo2Pipeline(transformer=awaken(net, seed), vae=vae(), scheduler=_flow(use_dynamic_shifting=True),
                                   text_encoder=None, processor=None))


def glm(layers: int = 3, seed: int = 0) -> GlmImagePipeline:
    net = GlmImageTransformer2DModel(in_channels=CHANNELS, out_channels=CHANNELS, num_layers=layers, text_embed_dim=12,
                                     time_embed_dim=16, condition_dim=4, prior_vq_quantizer_codebook_size=30, **HEADS)
    return quiet(GlmImagePipeline(tokenizer=None, processor=None, text_encoder=None, vision_language_encoder=None,
                                  vae=deep_vae(), transformer=awaken(net, seed), scheduler=_flow()))


def nucleus(layers: int = 3, seed: int = 0) -> NucleusMoEImagePipeline:
    net = NucleusMoEImageTransformer2DModel(
        in_channels=16, out_channels=CHANNELS, num_layers=layers, num_key_value_heads=1, joint_attention_dim=12,
        axes_dims_rope=(4, 6, 6), mlp_ratio=6.0, dense_moe_strategy="leave_first_block_dense", num_experts=3,
        moe_intermediate_dim=16, capacity_factors=1.5, **HEADS)
    pipe = NucleusMoEImagePipeline(transformer=awaken(net, seed), vae=None, scheduler=_flow(), text_encoder=None,
                                   processor=None)
    return quiet(pipe)


def prx(layers: int = 3, seed: int = 0) -> PRXPipeline:
    net = PRXTransformer2DModel(in_channels=CHANNELS, context_in_dim=12, hidden_size=32, mlp_ratio=2.0, num_heads=2,
                                depth=layers, axes_dim=[8, 8])
    return quiet(PRXPipeline(transformer=awaken(net, seed), scheduler=_flow(), text_encoder=None, tokenizer=None))


def fibo_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {"prompt": [str(seed) for seed in seeds], "generator": generators(seeds), "height": 64, "width": 48,
            "guidance_scale": 4.0, "num_inference_steps": 8, "output_type": "latent", **more}


def fibo_edit_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Two pictures for all images."""
    asked = [json.dumps({"edit_instruction": str(seed)}) for seed in seeds]
    return fibo_call(seeds, **{"prompt": asked, "image": [*drawn((1,), 32, 48), *drawn((2,), 16, 32)], **more})


def fibo2_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    told = {"prompt_embeds": torch.cat([noise(100 + seed, 1, 2, TEXT, 12) for seed in seeds]),
            "negative_prompt_embeds": noise(900, 1, 2, TEXT + 2, 12).repeat(len(seeds), 1, 1, 1)}
    return plain_call(seeds, **{"height": 8, "width": 12, **told, **more})


def glm_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    sketch = torch.cat([torch.randint(30, (1, 16), generator=generators((seed,))[0]) for seed in seeds])
    return plain_call(seeds, **{"height": 64, "width": 64, "prior_token_ids": sketch, **more})


def nucleus_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    masks = {"prompt_embeds_mask": valid(seeds), "negative_prompt_embeds_mask": valid((2,) * len(seeds))}
    return plain_call(seeds, **{"height": 64, "width": 48, **masks, **more})


def prx_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Without guidance of its own, under which it makes one image a call."""
    masks = {"prompt_attention_mask": valid(seeds), "negative_prompt_attention_mask": valid((2,) * len(seeds))}
    return plain_call(seeds, **{"height": 64, "width": 48, "guidance_scale": 1.0, "use_resolution_binning": False, **masks,
                                **more})


MORE = {case.name: case for case in (
    Ragged("fibo", fibo, fibo_call, True),
    Ragged("fibo-edit", lambda **kw: fibo(BriaFiboEditPipeline, **kw), fibo_edit_call, True),
    *([Ragged("fibo-2", fibo2, fibo2_call, True)] if hasattr(diffusers, "BriaFibo2Pipeline") else []),
    Ragged("glm-image", glm, glm_call, True),
    Ragged("nucleus", nucleus, nucleus_call, True),
    Ragged("prx", prx, prx_call, False),
    Ragged("prx-cfg", prx, lambda seeds=(8,), **more: prx_call(seeds[:1], **{"guidance_scale": 4.0, **more}), True),
)}
"""Networks that no other module has, and those of their pipelines that edit."""
