"""Further small video pipelines: with sound, with a guider, and from a picture or a video."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    ClassifierFreeGuidance,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXVideoToVideoPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    LTX2ImageToVideoPipeline,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXImageToVideoPipeline,
)
from diffusers.models.transformers.transformer_hunyuan_video15 import HunyuanVideo15ByT5TextProjection
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from PIL import Image

from .small import TEXT, Case, awaken, quiet
from .small_video import Video, cogvideox, ltx, ltx_call, texts, video_call

PICTURE = Image.radial_gradient("L").convert("RGB").resize((32, 32))


def hunyuan_video_15(layers: int = 4, seed: int = 0, scale: float = 4.0, **guider: Any) -> HunyuanVideo15Pipeline:
    net = HunyuanVideo15Transformer3DModel(in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=12,
                                           num_layers=layers, num_refiner_layers=1, text_embed_dim=12, text_embed_2_dim=10,
                                           image_embed_dim=8, rope_axes_dim=(4, 4, 4), target_size=32)
    net.context_embedder_2 = HunyuanVideo15ByT5TextProjection(10, 16, 24)  # 2048 wide whatever the settings
    pipe = HunyuanVideo15Pipeline(text_encoder=None, tokenizer=None, transformer=awaken(net, seed), vae=_hunyuan_vae(),
                                  scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), text_encoder_2=None,
                                  tokenizer_2=None, guider=ClassifierFreeGuidance(scale, **guider))
    pipe.vision_num_semantic_tokens = 3
    return quiet(pipe)


def _hunyuan_vae() -> AutoencoderKLHunyuanVideo15:
    torch.manual_seed(0)
    return AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(16, 16), layers_per_block=1,
                                       spatial_compression_ratio=8, temporal_compression_ratio=4,
                                       downsample_match_channel=False, upsample_match_channel=False)


def ltx_image(layers: int = 4, seed: int = 0) -> LTXImageToVideoPipeline:
    net = ltx(layers, seed).transformer
    return quiet(LTXImageToVideoPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=net,
                                         scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)))


def ltx2(cls: type = LTX2Pipeline, layers: int = 4, seed: int = 0, **config: Any) -> Any:
    net = LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
        audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=6,
        audio_cross_attention_dim=12, num_layers=layers, caption_channels=12, rope_double_precision=False, rope_type="split",
        **config)
    connectors = LTX2TextConnectors(
        caption_channels=12, text_proj_in_factor=1, video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=6, video_connector_num_layers=1, video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2, audio_connector_attention_head_dim=6, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None, rope_double_precision=False, rope_type="split")
    vae, audio = _sound_vaes()
    return quiet(cls(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae, audio_vae=audio, text_encoder=None,
                     tokenizer=None, connectors=awaken(connectors, seed), transformer=awaken(net, seed), vocoder=None))


def _sound_vaes() -> tuple[AutoencoderKLLTX2Video, AutoencoderKLLTX2Audio]:
    torch.manual_seed(0)
    video = AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,), layers_per_block=(1,),
        decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False), downsample_type=("spatial",), upsample_residual=(False,), upsample_factor=(1,),
        patch_size=1, decoder_causal=False, spatial_compression_ratio=8, temporal_compression_ratio=4)
    return video, AutoencoderKLLTX2Audio(base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2,
                                         mel_bins=8)


def cogvideox_image(layers: int = 4, seed: int = 0) -> CogVideoXImageToVideoPipeline:
    return with_cogvideox_vae(CogVideoXImageToVideoPipeline, cogvideox(layers, seed, in_channels=8).transformer)


def cogvideox_video(layers: int = 4, seed: int = 0) -> CogVideoXVideoToVideoPipeline:
    return with_cogvideox_vae(CogVideoXVideoToVideoPipeline, cogvideox(layers, seed).transformer)


def with_cogvideox_vae(cls: type, net: torch.nn.Module) -> Any:
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    return quiet(cls(tokenizer=None, text_encoder=None, vae=_cogvideox_vae(), transformer=net, scheduler=scheduler))


def _cogvideox_vae() -> AutoencoderKLCogVideoX:
    kinds = 4
    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(down_block_types=("CogVideoXDownBlock3D",) * kinds, block_out_channels=(8,) * kinds,
                                  up_block_types=("CogVideoXUpBlock3D",) * kinds, latent_channels=4, layers_per_block=1,
                                  norm_num_groups=2, temporal_compression_ratio=4)


def hunyuan_15_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    call = {name: value for name, value in video_call(seeds, **more).items() if name != "guidance_scale"}
    zeros, valid = (0,) * len(seeds), torch.arange(TEXT) < torch.tensor([[1 + seed % TEXT] for seed in seeds])
    masks = {"prompt_embeds_mask": valid, "prompt_embeds_mask_2": torch.arange(4) < torch.tensor([[s % 5] for s in seeds]),
             "negative_prompt_embeds_mask": torch.ones(len(seeds), TEXT),
             "negative_prompt_embeds_mask_2": torch.zeros(len(seeds), 4)}
    letters = {"prompt_embeds_2": texts(seeds, 500, 4, 10), "negative_prompt_embeds_2": texts(zeros, 550, 4, 10)}
    return {**{name: mask.float() for name, mask in masks.items()}, **letters, **call}


def ltx_image_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """With latents whose first frame is the picture."""
    call = ltx_call(seeds, **more)
    size = ((call["num_frames"] - 1) // 8 + 1) * (call["height"] // 32) * (call["width"] // 32)
    return {"image": PICTURE, "latents": texts(seeds, 400, size, 8), **call}


def ltx2_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    masks = {name: torch.ones(len(seeds), TEXT) for name in ("prompt_attention_mask", "negative_prompt_attention_mask")}
    own = {"stg_scale": 0.0, "audio_stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0}
    return video_call(seeds, **{**masks, **own, "guidance_rescale": 0.0, "audio_guidance_scale": 3.0,
                                "audio_guidance_rescale": 0.0, **more})


def ltx2_image_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """With latents whose first frame is the picture."""
    call = ltx2_call(seeds, **{"image": PICTURE, "image_crf": 0, **more})
    size = (call["num_frames"] - 1) // 4 + 1, call["height"] // 8, call["width"] // 8
    return {"latents": texts(seeds, 400, 4, *size), **call}


def cogvideox_image_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return video_call(seeds, **{"image": [PICTURE] * len(seeds), **more})


def cogvideox_video_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    call = video_call(seeds, **{"strength": 0.75, **more})
    size = call.pop("num_frames") // 4 + 1, 4, call["height"] // 8, call["width"] // 8
    return {"latents": texts(seeds, 400, *size), **call}


MORE: dict[str, Case] = {case.name: case for case in (
    Video("hunyuan-video-1.5", hunyuan_video_15, hunyuan_15_call, True),
    Video("hunyuan-video-1.5-off", lambda **kw: hunyuan_video_15(scale=1.0, **kw), hunyuan_15_call, False),
    Video("ltx-image", ltx_image, ltx_image_call, True),
    Video("ltx-2", ltx2, ltx2_call, True),
    Video("ltx-2-image", lambda **kw: ltx2(LTX2ImageToVideoPipeline, **kw), ltx2_image_call, True),
    Video("cogvideox-image", cogvideox_image, cogvideox_image_call, True),
    Video("cogvideox-video", cogvideox_video, cogvideox_video_call, True),
)}
