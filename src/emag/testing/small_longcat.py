"""Small LongCat-Image pipelines, as in `small`: one that makes pictures, one that edits them."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    LongCatImageEditPipeline,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput

from .small import TEXT, Case, awaken, generators, noise, quiet, vae
from .small_edits import SIDE, drawn

CHANNELS = 16  # of a latent: the pipelines take no other number


class Averages(AutoencoderKL):
    """Encodes pictures [batch, 3, height, width] by their averages over squares, without noise."""

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        mean = 3 * F.avg_pool2d(x, SIDE).repeat(1, 6, 1, 1)[:, :CHANNELS]
        return AutoencoderKLOutput(
            latent_dist=DiagonalGaussianDistribution(torch.cat([mean, torch.full_like(mean, -30.0)], 1)))


class Unread:
    """A stand-in for the processor of text and pictures."""

    image_processor = None


def _averages() -> Averages:
    """Its number of levels tells the pipeline that a latent is `SIDE` pixels wide."""
    levels = SIDE.bit_length()
    return Averages(block_out_channels=(1,) * levels, norm_num_groups=1, latent_channels=CHANNELS,
                    down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
                    shift_factor=0.0, scaling_factor=1.0, use_quant_conv=False, use_post_quant_conv=False).eval()


def longcat(cls: Any = LongCatImagePipeline, layers: int = 2, single: int = 3, seed: int = 0) -> Any:
    torch.manual_seed(0)
    net = LongCatImageTransformer2DModel(
        in_channels=4 * CHANNELS, num_layers=layers, num_single_layers=single, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=12, axes_dims_rope=[4, 6, 6])
    decoder = vae(CHANNELS) if cls is LongCatImagePipeline else _averages()
    pipe = cls(transformer=awaken(net, seed), vae=decoder, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
               text_encoder=None, tokenizer=None, text_processor=Unread())
    pipe._encode_prompt = lambda texts, image=None: written(texts).to(pipe.transformer.dtype)  # it takes no embeddings
    return quiet(pipe)


def written(texts: list[str]) -> torch.Tensor:
    """Text states [texts, TEXT, 12]; a number stands for the text of that seed, "" for the negative one."""
    return torch.cat([noise(100 + int(text) if text else 900, 1, TEXT, 12) for text in texts])


def longcat_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {"prompt": [str(seed) for seed in seeds], "negative_prompt": [""] * len(seeds), "enable_prompt_rewrite": False,
            "generator": generators(seeds), "height": 8, "width": 8, "guidance_scale": 4.0, "num_inference_steps": 8,
            "output_type": "latent", **more}


def edit_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """One prompt and one picture, with several images: of a million pixels, whatever the picture's size."""
    return {"image": drawn((1,), 4, 16), "prompt": "1", "num_images_per_prompt": len(seeds), "generator": generators(seeds),
            "guidance_scale": 4.0, "num_inference_steps": 6, "output_type": "latent", **more}


def longcat_edit(**settings: Any) -> Any:
    return longcat(LongCatImageEditPipeline, **settings)


MORE = {case.name: case for case in (
    Case("longcat", longcat, longcat_call, True),
    Case("longcat-edit", longcat_edit, edit_call, True),
)}
