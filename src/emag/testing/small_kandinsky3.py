"""Small Kandinsky 3 pipelines."""

from functools import partial
from typing import Any

import torch
from diffusers import DDPMScheduler, Kandinsky3Img2ImgPipeline, Kandinsky3Pipeline, Kandinsky3UNet

from .small import TEXT, Case, awaken, quiet
from .small_kandinsky2 import TURNED
from .small_unconditional import vq
from .small_unet import calm, sd_call


def kandinsky3(cls: Any = Kandinsky3Pipeline, seed: int = 0) -> Any:
    """Three blocks: one on the way down, two on the way up."""
    net = Kandinsky3UNet(time_embedding_dim=16, groups=2, attention_head_dim=4, layers_per_block=2,
                         block_out_channels=(8, 16), cross_attention_dim=8, encoder_hid_dim=12)
    return quiet(cls(tokenizer=None, text_encoder=None, unet=calm(awaken(net, seed)), movq=vq(4, latent_channels=4),
                     scheduler=DDPMScheduler(clip_sample=False)))


def call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Every sample with another number of valid text tokens, and its negative with all."""
    masks = {"attention_mask": torch.arange(TEXT) < torch.tensor([[1 + seed % TEXT] for seed in seeds]),
             "negative_attention_mask": torch.ones(len(seeds), TEXT, dtype=torch.bool)}
    return {**masks, **sd_call(seeds, **more)}


def late(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """From a picture, in nine of ten steps."""
    made = {name: value for name, value in call(seeds, **more).items() if name not in ("height", "width")}
    return {"image": [TURNED.rotate(30 * seed) for seed in seeds], "strength": 0.9, **made}


MORE = {case.name: case for case in (
    Case("kandinsky3", kandinsky3, call, True),
    Case("kandinsky3-img2img", partial(kandinsky3, Kandinsky3Img2ImgPipeline), late, True),
)}
