"""Small pipelines of the Wan family: from a picture, from a video, with control, with two experts."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from .small import Case, quiet
from .small_video import Video, texts, video_call, wan, wan_network

LONG = 512  # the text length that Wan counts on where it attends to a picture as well
SWITCH = 0.7  # as a share of the training steps


def wan_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
                            latents_std=[1.0] * 4).eval()


def picture_encoder() -> CLIPVisionModel:
    torch.manual_seed(0)
    return CLIPVisionModel(CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
                                            image_size=8, patch_size=4)).eval()


def experts(layers: int = 4, seed: int = 0, **settings: Any) -> WanPipeline:
    """Wan 2.2: another network takes over where the noise is low."""
    return wan(layers, seed, transformer_2=wan_network(layers=layers, seed=seed + 100),
               **{"boundary_ratio": SWITCH, **settings})


def wan_image(layers: int = 4, seed: int = 0, picture: bool = True, **settings: Any) -> WanImageToVideoPipeline:
    """Wan 2.1, which attends to the picture; else Wan 2.2, which has it in further channels alone."""
    attends: dict[str, Any] = {"image_dim": 8, "added_kv_proj_dim": 24} if picture else {}
    net = wan_network(layers=layers, seed=seed, in_channels=12, **attends)
    return _with_vae(WanImageToVideoPipeline, net, image_encoder=picture_encoder(), image_processor=CLIPImageProcessor(
        size={"shortest_edge": 8}, crop_size=8), **settings)


def wan_tokens(layers: int = 4, seed: int = 0) -> WanImageToVideoPipeline:
    """Wan 2.2 TI2V-5B: the tokens of the first frame are given, and have the time of clean ones."""
    return _with_vae(WanImageToVideoPipeline, wan_network(layers=layers, seed=seed), image_encoder=None,
                     image_processor=None, expand_timesteps=True)


def wan_video(layers: int = 4, seed: int = 0) -> WanVideoToVideoPipeline:
    return _with_vae(WanVideoToVideoPipeline, wan_network(layers=layers, seed=seed))


def wan_vace(layers: int = 4, seed: int = 0) -> WanVACEPipeline:
    net = wan_network(WanVACETransformer3DModel, layers, seed, vace_layers=[0, 2], vace_in_channels=72)
    return _with_vae(WanVACEPipeline, net)


def _with_vae(cls: type, net: torch.nn.Module, **settings: Any) -> Any:
    return quiet(cls(tokenizer=None, text_encoder=None, vae=wan_vae(), transformer=net,
                     scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **settings))


def image_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return video_call(seeds, **{"image": Image.radial_gradient("L").convert("RGB"), **more})


def picture_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    long = {"prompt_embeds": texts(seeds, 100, LONG, 12),
            "negative_prompt_embeds": texts((0,) * len(seeds), 900, LONG, 12)}
    return image_call(seeds, **{**long, **more})


def started_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """With latents in the place of generators."""
    call = video_call(seeds, **more)
    size = call["num_frames"] // 4 + 1, call["height"] // 8, call["width"] // 8
    return {"latents": texts(seeds, 400, 4, *size), **call, "generator": None}


def film_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    call = started_call(seeds, **{"strength": 0.75, **more})
    return {name: value for name, value in call.items() if name != "num_frames"}


MORE: dict[str, Case] = {case.name: case for case in (
    Video("wan-experts", experts, video_call, True),
    Video("wan-image", wan_image, picture_call, True),
    Video("wan-image-2", lambda **kw: wan_image(picture=False, **kw), image_call, True),
    Video("wan-tokens", wan_tokens, image_call, True),
    Video("wan-video", wan_video, film_call, True),
    Video("wan-vace", wan_vace, started_call, True),
)}
