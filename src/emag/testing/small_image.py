"""Small pipelines of further networks that make images, as in `small`."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanImage,
    BriaPipeline,
    BriaTransformer2DModel,
    ClassifierFreeGuidance,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
)
from diffusers.models.transformers.transformer_hunyuanimage import HunyuanImageByT5TextProjection

from .small import awaken, noise, quiet, vae
from .small_joint import HEADS, plain_call
from .small_ragged import Ragged as Joint
from .small_ragged import valid
from .small_unet import deep_vae
from .small_video_more import hunyuan_15_call

_PARTS: dict[str, Any] = {"text_encoder": None, "tokenizer": None}


def _flow(**more: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, **more)


def ovis(layers: int = 2, single: int = 2, seed: int = 0) -> OvisImagePipeline:
    net = OvisImageTransformer2DModel(in_channels=16, out_channels=16, num_layers=layers, num_single_layers=single,
                                      joint_attention_dim=12, axes_dims_rope=(4, 6, 6), **HEADS)
    return quiet(OvisImagePipeline(transformer=awaken(net, seed), vae=vae(), scheduler=_flow(), **_PARTS))


def bria(layers: int = 2, single: int = 2, seed: int = 0) -> BriaPipeline:
    net = BriaTransformer2DModel(in_channels=16, num_layers=layers, num_single_layers=single, joint_attention_dim=12,
                                 axes_dims_rope=[4, 6, 6], **HEADS)
    pipe = BriaPipeline(transformer=awaken(net, seed), vae=deep_vae(), scheduler=_flow(use_dynamic_shifting=True),
                        image_encoder=None, feature_extractor=None, **_PARTS)
    return quiet(pipe)


def cogview3(layers: int = 3, seed: int = 0) -> CogView3PlusPipeline:
    net = CogView3PlusTransformer2DModel(in_channels=4, out_channels=4, num_layers=layers, text_embed_dim=12,
                                         time_embed_dim=16, condition_dim=4, sample_size=8, pos_embed_max_size=8, **HEADS)
    steps = CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    return quiet(CogView3PlusPipeline(transformer=awaken(net, seed), vae=deep_vae(), scheduler=steps, **_PARTS))


def hunyuan_image(layers: int = 2, single: int = 2, seed: int = 0, scale: float = 4.0) -> HunyuanImagePipeline:
    net = HunyuanImageTransformer2DModel(in_channels=4, out_channels=4, num_layers=layers, num_single_layers=single,
                                         num_refiner_layers=1, text_embed_dim=12, text_embed_2_dim=10,
                                         rope_axes_dim=(8, 8), **HEADS)
    net.context_embedder_2 = HunyuanImageByT5TextProjection(10, 16, 32)  # 2048 wide whatever the settings
    torch.manual_seed(0)
    decoder = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32,) * 4, layers_per_block=1,
        spatial_compression_ratio=8, sample_size=32, downsample_match_channel=False, upsample_match_channel=False).eval()
    return quiet(HunyuanImagePipeline(transformer=awaken(net, seed), vae=decoder, scheduler=_flow(), text_encoder_2=None,
                                      tokenizer_2=None, guider=ClassifierFreeGuidance(scale), ocr_guider=None, **_PARTS))


def ernie(layers: int = 3, seed: int = 0) -> ErnieImagePipeline:
    net = ErnieImageTransformer2DModel(hidden_size=32, num_attention_heads=2, num_layers=layers, ffn_hidden_size=48,
                                       in_channels=4, out_channels=4, text_in_dim=12, rope_axes_dim=(4, 6, 6))
    return quiet(ErnieImagePipeline(transformer=awaken(net, seed), vae=vae(), scheduler=_flow(), **_PARTS))


def lumina(layers: int = 3, seed: int = 0) -> LuminaPipeline:
    net = LuminaNextDiT2DModel(sample_size=8, in_channels=4, hidden_size=32, num_layers=layers, num_attention_heads=2,
                               num_kv_heads=1, multiple_of=8, cross_attention_dim=12)
    return quiet(LuminaPipeline(transformer=awaken(net, seed), vae=deep_vae(), scheduler=_flow(), **_PARTS))


def ernie_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Texts of different lengths."""
    values = plain_call(seeds, **{"height": 8, "width": 12, **more})
    return {**values, "prompt_embeds": [noise(100 + seed, 2 + seed % 3, 12) for seed in seeds],
            "negative_prompt_embeds": [noise(900, 3, 12) for _ in seeds]}


def lumina_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    masks = {"prompt_attention_mask": valid(seeds).long(),
             "negative_prompt_attention_mask": valid((2,) * len(seeds)).long()}
    return sized(64)(seeds, **{**masks, "negative_prompt": None, **more})


def hunyuan_image_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Letters for one row alone, and texts of different lengths."""
    return {name: value for name, value in hunyuan_15_call(seeds, **more).items() if name != "num_frames"}


def sized(side: int) -> Any:
    """`plain_call` at another size."""
    return lambda seeds=(8, 9), **more: plain_call(seeds, **{"height": side, "width": side, **more})


MORE = {case.name: case for case in (
    Joint("ovis", ovis, lambda seeds=(8, 9), **more: plain_call(seeds, **{"negative_prompt": None, **more}), True),
    Joint("bria", bria, sized(64), True),
    Joint("cogview3", cogview3, sized(64), True),
    Joint("hunyuan-image", hunyuan_image, hunyuan_image_call, True),
    Joint("ernie-image", ernie, ernie_call, True),
    Joint("lumina", lumina, lumina_call, True),
)}
"""Networks that no other module has."""
