"""Small pipelines of DDPM and its like, without a prompt, and of latent diffusion."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    LDMPipeline,
    LDMSuperResolutionPipeline,
    LDMTextToImagePipeline,
    PNDMPipeline,
    PNDMScheduler,
    UNet2DModel,
    VQModel,
)

from .small import TEXT, Case, awaken, generators, noise, quiet
from .small_unet import calm, unet


def plain_unet(seed: int = 0, **config: Any) -> UNet2DModel:
    """Four blocks: one on the way down, one in the middle, two on the way up."""
    net = UNet2DModel(**{**dict(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=2,
        attention_head_dim=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D")), **config})
    return calm(awaken(net, seed))


class Unrounded(VQModel):
    """Decodes latents as they are, where a codebook of random words would hide what differs."""

    def decode(self, h: torch.Tensor, *args: Any, **more: Any) -> Any:
        return super().decode(h, force_not_quantize=True)


def vq(levels: int = 1, **config: Any) -> Unrounded:
    """An autoencoder of pictures 2^(levels - 1) times as wide as its latents."""
    torch.manual_seed(0)
    return Unrounded(**{**dict(
        block_out_channels=(2,) * levels, norm_num_groups=1, latent_channels=3, num_vq_embeddings=8,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels), **config}).eval()


def ddpm(cls: Any = DDPMPipeline, scheduler: Any = None, seed: int = 0) -> Any:
    return quiet(cls(unet=plain_unet(seed), scheduler=scheduler or DDPMScheduler(clip_sample=False)))


def ldm(seed: int = 0) -> Any:
    return quiet(LDMPipeline(vqvae=vq(), unet=plain_unet(seed), scheduler=DDIMScheduler(clip_sample=False)))


def ldm_larger(seed: int = 0) -> Any:
    return quiet(LDMSuperResolutionPipeline(vqvae=vq(), unet=plain_unet(seed, in_channels=6),
                                            scheduler=DDIMScheduler(clip_sample=False)))


class Numbers:
    """In the place of a tokenizer: a number stands for the text of that seed, "" for the negative one."""

    def __call__(self, texts: list[str], **unread: Any) -> Any:
        return SimpleNamespace(input_ids=torch.tensor([[int(text or 800)] for text in texts]))


class Written:
    """In the place of a text encoder."""

    def __call__(self, ids: torch.Tensor) -> Any:
        return (torch.cat([noise(100 + int(text), 1, TEXT, 12) for text in ids]),)


def ldm_text(seed: int = 0) -> Any:
    return quiet(LDMTextToImagePipeline(vqvae=vq(latent_channels=4), bert=Written(), tokenizer=Numbers(), unet=unet(seed),
                                        scheduler=DDIMScheduler(clip_sample=False)))


def text_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {"prompt": [str(seed) for seed in seeds], "generator": generators(seeds), "height": 64, "width": 64,
            "guidance_scale": 4.0, "num_inference_steps": 8, "output_type": "pt", **more}


def ddpm_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {"batch_size": len(seeds), "generator": generators(seeds), "num_inference_steps": 8, "output_type": "pt", **more}


def array_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """A call of pipelines that give pictures or arrays, and no tensors."""
    return {**ddpm_call(seeds, **more), "output_type": "np"}


def larger_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    call = ddpm_call(seeds, **more)
    return {"image": torch.cat([noise(600 + seed, 1, 3, 8, 8) for seed in seeds]),
            **{name: value for name, value in call.items() if name != "batch_size"}}


class Arrays(Case):
    """A pipeline that gives its pictures as arrays."""

    def run(self, pipe: Any, seeds: tuple[int, ...] = (8, 9), **more: Any) -> torch.Tensor:
        return torch.as_tensor(pipe(**self.call(seeds, **more)).images)


MORE = {case.name: case for case in (
    Case("ddpm", ddpm, ddpm_call, False),
    Case("ddim", lambda **kw: ddpm(DDIMPipeline, DDIMScheduler(clip_sample=False), **kw), ddpm_call, False),
    Arrays("pndm", lambda **kw: ddpm(PNDMPipeline, PNDMScheduler(skip_prk_steps=True), **kw), array_call, False),
    Arrays("ldm", ldm, array_call, False),
    Case("ldm-larger", ldm_larger, larger_call, False),
    Case("ldm-text", ldm_text, text_call, True),
)}
