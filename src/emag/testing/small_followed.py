"""Small pipelines that follow a picture or a video, of networks that other modules make from a text alone."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanImageRefiner,
    ClassifierFreeGuidance,
    EasyAnimateInpaintPipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImageRefinerPipeline,
    HunyuanImageTransformer2DModel,
    Kandinsky5I2IPipeline,
    Kandinsky5I2VPipeline,
    LTX2HDRPipeline,
    LTX2InContextPipeline,
    SanaImageToVideoPipeline,
    SanaSprintImg2ImgPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)
from diffusers.pipelines.ltx2.pipeline_ltx2_hdr_lora import LTX2HDRReferenceCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2ReferenceCondition

from .small import TEXT, Case, awaken, noise, quiet
from .small_films import Still, easyanimate, kandinsky5, kandinsky5_call, masked, sana_video, sana_video_call
from .small_given import FILM, beside
from .small_joint import HEADS, plain_call
from .small_ragged import Ragged, valid
from .small_separate import from_image, sana, sana_call
from .small_video import Video, texts, video_call
from .small_video_more import PICTURE, ltx2, ltx2_call


def inpainting(layers: int = 3, seed: int = 0) -> EasyAnimateInpaintPipeline:
    """With further channels: a mask and the video that is filled in."""
    made = easyanimate(layers, seed)
    config = {name: value for name, value in made.transformer.config.items() if not name.startswith("_")}
    net = EasyAnimateTransformer3DModel(**{**config, "in_channels": 9})
    return quiet(EasyAnimateInpaintPipeline(**{**made.components, "transformer": awaken(net, seed)}))


def refiner(layers: int = 2, single: int = 2, seed: int = 0, scale: float = 4.0) -> HunyuanImageRefinerPipeline:
    net = HunyuanImageTransformer2DModel(in_channels=8, out_channels=4, num_layers=layers, num_single_layers=single,
                                         num_refiner_layers=1, text_embed_dim=12, text_embed_2_dim=None,
                                         guidance_embeds=True, patch_size=(1, 1, 1), rope_axes_dim=(4, 6, 6), **HEADS)
    torch.manual_seed(0)
    decoder = AutoencoderKLHunyuanImageRefiner(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32,) * 5, layers_per_block=1,
        spatial_compression_ratio=16, temporal_compression_ratio=4).eval()
    return quiet(HunyuanImageRefinerPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=decoder, text_encoder=None, tokenizer=None,
        transformer=awaken(net, seed), guider=ClassifierFreeGuidance(scale)))


def sana_image(layers: int = 3, seed: int = 0) -> SanaImageToVideoPipeline:
    made = sana_video(layers, seed)
    return quiet(SanaImageToVideoPipeline(**{**made.components,
                                             "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}))


def sprint(cls: Any = SanaSprintPipeline, layers: int = 3, seed: int = 0) -> Any:
    made = sana(1)
    config = {name: value for name, value in made.transformer.config.items() if not name.startswith("_")}
    net = SanaTransformer2DModel(**{**config, "num_layers": layers, "guidance_embeds": True,
                                    "qk_norm": "rms_norm_across_heads"})
    return quiet(cls(**{**made.components, "transformer": awaken(net, seed),
                        "scheduler": SCMScheduler(prediction_type="trigflow", sigma_data=0.5)}))


def sprint_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    call = {"num_inference_steps": 4, "intermediate_timesteps": None, "max_timesteps": 1.57, **sana_call(seeds, **more)}
    return {name: value for name, value in call.items() if not name.startswith("negative")}


def refiner_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """From a picture in its own form."""
    call = plain_call(seeds, **{"height": 32, "width": 48, **more})
    picture = torch.cat([noise(300 + seed, 1, 4, 1, 2, 3) for seed in seeds])
    return {"image": picture, "prompt_embeds_mask": valid(seeds).float(),
            "negative_prompt_embeds_mask": torch.ones(len(seeds), TEXT),
            **{name: value for name, value in call.items() if name != "guidance_scale"}}


def k5_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """With latents that hold the picture in further channels, or as the first of many frames."""
    call = kandinsky5_call(seeds, **{"num_frames": 21, **more})
    frames = (call["num_frames"] - 1) // 4 + 1
    given = torch.zeros(len(seeds), frames, 4, 4, 9)
    given[..., :4] = torch.cat([noise(400 + seed, 1, frames, 4, 4, 4) for seed in seeds])
    given[:, 0, ..., 8] = 1
    return {"image": PICTURE, "latents": given, **call}


def k5_image_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """The picture is in further channels."""
    call = k5_call(seeds, **{"num_frames": 1, **more})
    call["latents"][..., 4:8] = 2 * noise(7, 1, 1, 4, 4, 4)
    return {name: value for name, value in call.items() if name != "num_frames"}


def context_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    reference = LTX2ReferenceCondition(frames=FILM, strength=1.0)
    return ltx2_call(seeds, **{"num_frames": 5, "reference_conditions": [reference], "noise_scale": 1.0,
                               "latents": texts(seeds, 400, 4, 2, 4, 4), **more})


def hdr_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    reference = LTX2HDRReferenceCondition(frames=FILM, strength=1.0)
    call = context_call(seeds, **{"reference_conditions": [reference], **more})
    return {name: value for name, value in call.items() if not name.startswith("audio")}


MORE: dict[str, Case] = {case.name: case for case in (
    Video("easyanimate-inpaint", inpainting, masked(video_call), True),
    Ragged("sana-sprint", sprint, sprint_call, False),
    Ragged("sana-sprint-img2img", lambda **kw: sprint(SanaSprintImg2ImgPipeline, **kw),
           lambda seeds=(8, 9), **more: {"strength": 0.75, **from_image(sprint_call)(seeds, **more)}, False),
    Ragged("hunyuan-image-refiner", refiner, refiner_call, True),
    Video("kandinsky5-video-image", lambda **kw: kandinsky5(Kandinsky5I2VPipeline, visual_cond=True, **kw), k5_call, True),
    Still("kandinsky5-edit", lambda **kw: kandinsky5(Kandinsky5I2IPipeline, visual_cond=True, **kw), k5_image_call, True),
    Video("sana-video-image", sana_image, beside(sana_video_call), True),
    Video("ltx-2-in-context", lambda **kw: ltx2(LTX2InContextPipeline, **kw), context_call, True),
    Video("ltx-2-hdr", lambda **kw: ltx2(LTX2HDRPipeline, **kw), hdr_call, True),
)}
