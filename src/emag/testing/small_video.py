"""Small video pipelines, as those of `small`; without a VAE, so they give latents."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
)

from ..engine.reading import read_network
from .small import TEXT, Case, awaken, generators, noise, quiet


@dataclass(frozen=True)
class Video(Case):
    """A case whose pipeline makes frames."""

    def run(self, pipe: Any, seeds: tuple[int, ...] = (8, 9), **more: Any) -> torch.Tensor:
        return pipe(**self.call(seeds, **more)).frames

    def depth(self, pipe: Any) -> int:
        return read_network(pipe.transformer).depth


def wan_network(cls: type = WanTransformer3DModel, layers: int = 4, seed: int = 0, **config: Any) -> Any:
    net = cls(**{**dict(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
                        text_dim=12, freq_dim=16, ffn_dim=32, num_layers=layers), **config})
    return awaken(net, seed)


def wan(layers: int = 4, seed: int = 0, **settings: Any) -> WanPipeline:
    return quiet(WanPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=wan_network(layers=layers, seed=seed),
                             scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **settings))


def ltx(layers: int = 4, seed: int = 0) -> LTXPipeline:
    net = LTXVideoTransformer3DModel(in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=12,
                                     cross_attention_dim=24, num_layers=layers, caption_channels=12)
    return quiet(LTXPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=awaken(net, seed),
                             scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)))


def cogvideox(layers: int = 4, seed: int = 0, **config: Any) -> CogVideoXPipeline:
    net = CogVideoXTransformer3DModel(**{**dict(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=12,
        num_layers=layers, sample_width=40, sample_height=40, sample_frames=9, patch_size=2,
        max_text_seq_length=TEXT,
        use_rotary_positional_embeddings=True), **config})
    return quiet(CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=awaken(net, seed),
                                   scheduler=CogVideoXDDIMScheduler(prediction_type="v_prediction",
                                                                    rescale_betas_zero_snr=True)))


def hunyuan_video(layers: int = 2, single: int = 2, seed: int = 0, guidance: bool = True) -> HunyuanVideoPipeline:
    net = HunyuanVideoTransformer3DModel(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12,
                                         num_layers=layers, num_single_layers=single, num_refiner_layers=1,
                                         guidance_embeds=guidance, text_embed_dim=12, pooled_projection_dim=10,
                                         rope_axes_dim=(4, 4, 4))
    return quiet(HunyuanVideoPipeline(text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, vae=None,
                                      transformer=awaken(net, seed), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)))


def mochi(layers: int = 4, seed: int = 0) -> MochiPipeline:
    net = MochiTransformer3DModel(num_attention_heads=2, attention_head_dim=12, in_channels=4, num_layers=layers,
                                  pooled_projection_dim=12, text_embed_dim=16, time_embed_dim=8)
    return quiet(MochiPipeline(text_encoder=None, tokenizer=None, vae=None, transformer=awaken(net, seed),
                               scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True)))


def texts(seeds: tuple[int, ...], base: int, *shape: int) -> torch.Tensor:
    """One tensor of text features for each seed."""
    return torch.cat([noise(base + seed, 1, *shape) for seed in seeds])


def _prompts(seeds: tuple[int, ...], width: int = 12) -> dict[str, torch.Tensor]:
    return {"prompt_embeds": texts(seeds, 100, TEXT, width),
            "negative_prompt_embeds": texts((0,) * len(seeds), 900, TEXT, width)}


def _masks(seeds: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Every sample with another number of valid text tokens, and its negative with all."""
    valid = torch.arange(TEXT) < torch.tensor([[1 + seed % TEXT] for seed in seeds])
    return {"prompt_attention_mask": valid.float(), "negative_prompt_attention_mask": torch.ones(len(seeds), TEXT)}


def video_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {**_prompts(seeds), "generator": generators(seeds), "height": 32, "width": 32, "num_frames": 5,
            "guidance_scale": 4.0, "num_inference_steps": 8, "output_type": "latent", **more}


def ltx_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return video_call(seeds, **{**_masks(seeds), "height": 96, "width": 96, "num_frames": 9, **more})


def mochi_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    masks = {name: mask.bool() for name, mask in _masks(seeds).items()}
    return video_call(seeds, **{**_prompts(seeds, 16), **masks, "num_frames": 7, **more})


def hunyuan_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    drawn = {"pooled_prompt_embeds": texts(seeds, 150, 10), "prompt_attention_mask": _masks(seeds)["prompt_attention_mask"]}
    call = video_call(seeds, **{**drawn, **more})
    return {name: value for name, value in call.items() if name in more or not name.startswith("negative")}


def hunyuan_true_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    zeros = (0,) * len(seeds)
    negative = {"negative_prompt_embeds": texts(zeros, 900, TEXT, 12),
                "negative_pooled_prompt_embeds": texts(zeros, 950, 10),
                "negative_prompt_attention_mask": torch.ones(len(seeds), TEXT)}
    return hunyuan_call(seeds, **{**negative, "true_cfg_scale": 4.0, **more})


MORE: dict[str, Case] = {case.name: case for case in (
    Video("wan", wan, video_call, True),
    Video("ltx", ltx, ltx_call, True),
    Video("cogvideox", cogvideox, video_call, True),
    Video("cogvideox-1.5", lambda **kw: cogvideox(**{"patch_size_t": 2, "patch_bias": False, **kw}), video_call, True),
    Video("mochi", mochi, mochi_call, True),
    Video("hunyuan-video", hunyuan_video, hunyuan_call, False),
    Video("hunyuan-video-cfg", hunyuan_video, hunyuan_true_call, True, scale="true_cfg_scale"),
)}
