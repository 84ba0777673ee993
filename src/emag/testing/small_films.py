"""Small pipelines of further networks that make videos, as in `small_video`."""

from typing import Any

import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLMagvit,
    ChronoEditPipeline,
    ChronoEditTransformer3DModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5T2IPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
)
from transformers import CLIPImageProcessor

from .small import TEXT, Case, awaken, quiet
from .small_video import Video, texts, video_call, wan_network
from .small_wan import picture_call, picture_encoder, wan_vae

_PARTS: dict[str, Any] = {"text_encoder": None, "tokenizer": None}


def _flow(**more: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, **more)


class Still(Video):
    """A case whose pipeline makes one frame, under a name of its own."""

    def run(self, pipe: Any, seeds: tuple[int, ...] = (8, 9), **more: Any) -> torch.Tensor:
        return pipe(**self.call(seeds, **more)).image


def skyreels(layers: int = 3, seed: int = 0) -> SkyReelsV2Pipeline:
    net = wan_network(SkyReelsV2Transformer3DModel, layers, seed)
    return quiet(SkyReelsV2Pipeline(transformer=net, vae=wan_vae(), scheduler=_flow(), **_PARTS))


def from_picture(cls: Any, kind: Any, layers: int = 3, seed: int = 0, **config: Any) -> Any:
    """A pipeline whose network attends to a picture, and has it in further channels."""
    net = wan_network(kind, layers, seed, in_channels=12, image_dim=8, added_kv_proj_dim=24, **config)
    seeing = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=8)
    return quiet(cls(transformer=net, vae=wan_vae(), scheduler=_flow(), image_encoder=picture_encoder(),
                     image_processor=seeing, **_PARTS))


def allegro(layers: int = 3, seed: int = 0) -> AllegroPipeline:
    net = AllegroTransformer3DModel(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
                                    num_layers=layers, cross_attention_dim=24, sample_width=8, sample_height=8,
                                    sample_frames=4, caption_channels=12)
    return quiet(AllegroPipeline(transformer=awaken(net, seed), vae=None, scheduler=DDIMScheduler(clip_sample=False),
                                 **_PARTS))


def easyanimate(layers: int = 3, seed: int = 0) -> EasyAnimatePipeline:
    net = EasyAnimateTransformer3DModel(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
                                        num_layers=layers, mmdit_layers=2, time_embed_dim=8, text_embed_dim=12,
                                        text_embed_dim_t5=None, patch_size=2, sample_width=8, sample_height=8)
    decoder = AutoencoderKLMagvit(latent_channels=4, block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=2,
                                  down_block_types=("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
                                  up_block_types=("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3))
    return quiet(EasyAnimatePipeline(transformer=awaken(net, seed), vae=decoder, scheduler=_flow(), **_PARTS))


def sana_video(layers: int = 3, seed: int = 0) -> SanaVideoPipeline:
    net = SanaVideoTransformer3DModel(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12,
                                      num_layers=layers, num_cross_attention_heads=2, cross_attention_head_dim=12,
                                      cross_attention_dim=24, caption_channels=12)
    steps = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return quiet(SanaVideoPipeline(transformer=awaken(net, seed), vae=wan_vae(), scheduler=steps, **_PARTS))


def kandinsky5(cls: Any = Kandinsky5T2VPipeline, layers: int = 3, seed: int = 0, **config: Any) -> Any:
    net = Kandinsky5Transformer3DModel(**{**dict(
        in_visual_dim=4, in_text_dim=12, in_text_dim2=10, time_dim=8, out_visual_dim=4, model_dim=24, ff_dim=32,
        num_text_blocks=1, num_visual_blocks=layers, axes_dims=(4, 4, 4)), **config})
    pipe = cls(transformer=awaken(net, seed), vae=None, scheduler=_flow(), text_encoder_2=None, tokenizer_2=None, **_PARTS)
    pipe.resolutions = [(32, 32)]
    return quiet(pipe)


def kandinsky5_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    call, none = video_call(seeds, **more), (0,) * len(seeds)
    counts = torch.arange(len(seeds) + 1) * TEXT
    told = {"prompt_embeds_qwen": call.pop("prompt_embeds"), "prompt_embeds_clip": texts(seeds, 150, 10),
            "prompt_cu_seqlens": counts, "negative_prompt_embeds_qwen": call.pop("negative_prompt_embeds"),
            "negative_prompt_embeds_clip": texts(none, 950, 10), "negative_prompt_cu_seqlens": counts}
    return {**told, **call}


def frameless(call: Any) -> Any:
    """`call` of a pipeline of images."""
    return lambda seeds=(8, 9), **more: {name: value for name, value in call(seeds, **more).items() if name != "num_frames"}


def sana_video_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    call = masked(video_call)(seeds, **more)
    return {"frames": call.pop("num_frames"), "negative_prompt": None, "use_resolution_binning": False, **call}


def masked(call: Any) -> Any:
    """`call` with texts of different lengths."""
    def made(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
        valid = (texts(seeds, 0, TEXT).argsort(1) >= 0).long()
        for row, seed in enumerate(seeds):
            valid[row, 1 + seed % TEXT:] = 0
        none = valid.new_ones(len(seeds), TEXT)
        return call(seeds, **{"prompt_attention_mask": valid, "negative_prompt_attention_mask": none, **more})

    return made


MORE: dict[str, Case] = {case.name: case for case in (
    Video("skyreels", skyreels, video_call, True),
    Video("skyreels-image", lambda **kw: from_picture(SkyReelsV2ImageToVideoPipeline, SkyReelsV2Transformer3DModel, **kw),
          picture_call, True),
    Video("chronoedit", lambda **kw: from_picture(ChronoEditPipeline, ChronoEditTransformer3DModel, **kw), picture_call,
          True),
    Video("kandinsky5", kandinsky5, kandinsky5_call, True),
    Still("kandinsky5-image", lambda **kw: kandinsky5(Kandinsky5T2IPipeline, **kw), frameless(kandinsky5_call), True),
    Video("sana-video", sana_video, sana_video_call, True),
    Video("allegro", allegro, masked(lambda seeds=(8, 9), **more: video_call(seeds, **{"negative_prompt": None, **more})),
          True),
    Video("easyanimate", easyanimate, masked(video_call), True),
)}
"""Videos of networks that `small_video` does not have."""
