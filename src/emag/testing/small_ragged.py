"""Small pipelines whose rows hold texts of different lengths, or one stream of text and image, as in `small`."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    ZImageImg2ImgPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

from ..engine.reading import read_network
from .small import TEXT, Case, awaken, generators, noise, quiet, vae

_PARTS: dict[str, Any] = {"text_encoder": None, "tokenizer": None}


@dataclass(frozen=True)
class Ragged(Case):
    """A case whose blocks are in lists of other names."""

    def depth(self, pipe: Any) -> int:
        return read_network(pipe.transformer).depth


def _scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def lumina2(layers: int = 4, seed: int = 0) -> Lumina2Pipeline:
    net = Lumina2Transformer2DModel(sample_size=8, in_channels=4, hidden_size=32, num_layers=layers, num_refiner_layers=1,
                                    num_attention_heads=2, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 6, 6),
                                    axes_lens=(64, 32, 32), cap_feat_dim=12)
    return quiet(Lumina2Pipeline(transformer=awaken(net, seed), vae=vae(), scheduler=_scheduler(), **_PARTS))


def z_image(cls: type = ZImagePipeline, layers: int = 4, seed: int = 0) -> Any:
    net = ZImageTransformer2DModel(in_channels=4, dim=32, n_layers=layers, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
                                   cap_feat_dim=12, axes_dims=[4, 6, 6], axes_lens=[128, 64, 64])
    return quiet(cls(transformer=awaken(net, seed), vae=vae(), scheduler=_scheduler(), **_PARTS))


def hidream(layers: int = 2, single: int = 2, seed: int = 0) -> HiDreamImagePipeline:
    net = HiDreamImageTransformer2DModel(patch_size=2, in_channels=4, num_layers=layers, num_single_layers=single,
                                         attention_head_dim=16, num_attention_heads=2, caption_channels=[12, 8],
                                         text_emb_dim=10, axes_dims_rope=(4, 6, 6), max_resolution=(8, 8),
                                         llama_layers=list(range(layers + single)))
    parts = {f"{part}{end}": None for part in _PARTS for end in ("", "_2", "_3", "_4")}
    pipe = HiDreamImagePipeline(transformer=awaken(net, seed), vae=vae(), scheduler=_scheduler(), **parts)
    pipe.default_sample_size = 8
    return quiet(pipe)


def krea2(layers: int = 4, seed: int = 0) -> Krea2Pipeline:
    torch.manual_seed(0)
    decoder = AutoencoderKLQwenImage(base_dim=8, z_dim=4, dim_mult=[1], num_res_blocks=1, temperal_downsample=[],
                                     latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()
    net = Krea2Transformer2DModel(in_channels=16, num_layers=layers, attention_head_dim=16, num_attention_heads=2,
                                  num_key_value_heads=1, intermediate_size=48, timestep_embed_dim=16, text_hidden_dim=12,
                                  num_text_layers=2, text_num_attention_heads=2, text_num_key_value_heads=1,
                                  text_intermediate_size=16, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
                                  axes_dims_rope=(4, 6, 6))
    return quiet(Krea2Pipeline(transformer=awaken(net, seed), vae=decoder, scheduler=_scheduler(), **_PARTS))


def texts(seeds: tuple[int, ...], base: int, *shape: int) -> torch.Tensor:
    """One tensor of text features for each seed."""
    return torch.cat([noise(base + seed, 1, *shape) for seed in seeds])


def valid(seeds: tuple[int, ...]) -> torch.Tensor:
    """Every row with another number of valid text tokens."""
    return torch.arange(TEXT) < torch.tensor([[1 + seed % TEXT] for seed in seeds])


def _call(seeds: tuple[int, ...], **more: Any) -> dict[str, Any]:
    return {"generator": generators(seeds), "height": 8, "width": 8, "guidance_scale": 4.0, "num_inference_steps": 8,
            "output_type": "latent", **more}


def lumina2_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    none = (0,) * len(seeds)
    return _call(seeds, **{
        "prompt_embeds": texts(seeds, 100, TEXT, 12), "prompt_attention_mask": valid(seeds).long(),
        "negative_prompt_embeds": texts(none, 900, TEXT, 12),
        "negative_prompt_attention_mask": valid((2,) * len(seeds)).long(), "height": 64, "width": 64, **more})


def z_image_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Texts on both sides of 32 tokens, to which this network fills them up."""
    return _call(seeds, **{"prompt_embeds": [noise(100 + s, 3 + 32 * (s % 2), 12) for s in seeds],
                           "negative_prompt_embeds": [noise(900, TEXT, 12) for _ in seeds], **more})


def z_image_from_image_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    image = torch.cat([noise(300 + s, 1, 4, 8, 8) for s in seeds])
    return z_image_call(seeds, **{"image": image, "strength": 0.75, **more})


def hidream_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for end, drawn, base in (("", seeds, 100), ("negative_", (0,) * len(seeds), 900)):
        llama = torch.stack([noise(base + 20 + s, 4, 3, 8) for s in drawn], 1)
        found |= {f"{end}prompt_embeds_t5": texts(drawn, base, TEXT, 12), f"{end}prompt_embeds_llama3": llama,
                  f"{end}pooled_prompt_embeds": texts(drawn, base + 50, 10)}
    return _call(seeds, **{**found, **more})


def krea2_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    none = (0,) * len(seeds)
    return _call(seeds, **{
        "prompt_embeds": texts(seeds, 100, TEXT, 2, 12), "prompt_embeds_mask": valid(seeds),
        "negative_prompt_embeds": texts(none, 900, TEXT, 2, 12), "negative_prompt_embeds_mask": valid((2,) * len(seeds)),
        **more})


def z_image_from_image(**settings: Any) -> Any:
    return z_image(ZImageImg2ImgPipeline, **settings)


MORE: dict[str, Case] = {case.name: case for case in (
    Ragged("lumina2", lumina2, lumina2_call, True),
    Ragged("z-image", z_image, z_image_call, True),
    Ragged("z-image-img2img", z_image_from_image, z_image_from_image_call, True),
    Ragged("hidream", hidream, hidream_call, True),
    Ragged("krea2", krea2, krea2_call, True),
)}
