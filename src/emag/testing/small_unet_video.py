"""Small pipelines whose rows are frames: AnimateDiff and its like, ModelScope, I2VGen-XL, Stable Video Diffusion; Latte."""

from functools import partial
from typing import Any

import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPAGPipeline,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    I2VGenXLPipeline,
    I2VGenXLUNet,
    LattePipeline,
    LatteTransformer3DModel,
    MotionAdapter,
    PIAPipeline,
    SparseControlNetModel,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
    UNetMotionModel,
    UNetSpatioTemporalConditionModel,
    VideoToVideoSDPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from .small import awaken, generators, noise, quiet
from .small_unet import BARE, SIDE, calm, control, ddim, deep_vae, sd_call, sdxl_call, unet, unet_xl
from .small_video import Video

FRAMES = 3
PICTURE = Image.linear_gradient("L").convert("RGB").resize((SIDE, SIDE))
FILM = [PICTURE.rotate(40 * at) for at in range(FRAMES)]


class Still(AutoencoderKL):
    """Encodes pictures without noise, which some pipelines draw without a generator."""

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        mean = super().encode(x).latent_dist.mean
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(torch.cat([mean, mean], 1), deterministic=True))


def still_vae() -> Still:
    made = Still.from_config(deep_vae().config)
    made.load_state_dict(deep_vae().state_dict())
    return made.eval()


def pia(seed: int = 0) -> PIAPipeline:
    """Its network is given a mask and a picture for each frame."""
    return animate(PIAPipeline, partial(unet, in_channels=9), seed)


def motion_unet(base: Any = unet, seed: int = 0, **more: Any) -> UNetMotionModel:
    """The blocks of `unet`, each frame by itself, with modules behind them that mix frames."""
    plain = base(seed)
    adapter = MotionAdapter(block_out_channels=(8, 16), motion_layers_per_block=1, motion_num_attention_heads=2,
                            motion_norm_num_groups=2, motion_max_seq_length=8, use_motion_mid_block=False, **more)
    return calm(awaken(UNetMotionModel.from_unet2d(plain, adapter, load_weights=False), seed))


def animate(cls: Any = AnimateDiffPipeline, base: Any = unet, seed: int = 0, **more: Any) -> Any:
    pair = dict.fromkeys(("text_encoder_2", "tokenizer_2")) if base is unet_xl else {}
    return quiet(cls(vae=still_vae(), unet=motion_unet(base, seed), motion_adapter=None, scheduler=ddim(),
                     **{**BARE, **pair, **more}))


def controlled(cls: Any, seed: int = 0) -> Any:
    return animate(cls, seed=seed, controlnet=control(unet(seed)))


def sparse(seed: int = 0) -> Any:
    net = SparseControlNetModel(in_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=2,
                                down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), cross_attention_dim=12,
                                attention_head_dim=2, conditioning_channels=4, motion_num_attention_heads=2,
                                motion_max_seq_length=8, conditioning_embedding_out_channels=(2, 2),
                                use_simplified_condition_embedding=True)
    return animate(AnimateDiffSparseControlNetPipeline, seed=seed, controlnet=calm(awaken(net, 5)))


def modelscope(cls: Any = TextToVideoSDPipeline, seed: int = 0) -> Any:
    net = UNet3DConditionModel(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=2,
                               down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                               up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), cross_attention_dim=12,
                               attention_head_dim=2)
    return quiet(cls(vae=deep_vae(), unet=calm(awaken(net, seed)), scheduler=ddim(), text_encoder=None, tokenizer=None))


def seer(side: int = 8) -> CLIPVisionModelWithProjection:
    torch.manual_seed(0)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=side,
        patch_size=side // 2, projection_dim=12)).eval()


def i2vgen(seed: int = 0) -> I2VGenXLPipeline:
    net = I2VGenXLUNet(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=2,
                       down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                       up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), cross_attention_dim=12, attention_head_dim=4)
    looks = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    return quiet(I2VGenXLPipeline(vae=still_vae(), text_encoder=None, tokenizer=None, image_encoder=seer(),
                                  feature_extractor=looks, unet=calm(awaken(net, seed)), scheduler=ddim()))


def svd(seed: int = 0) -> StableVideoDiffusionPipeline:
    net = UNetSpatioTemporalConditionModel(
        sample_size=8, in_channels=8, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=12,
        num_attention_heads=2, projection_class_embeddings_input_dim=12, addition_time_embed_dim=4)
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(block_out_channels=(32,) * 4, layers_per_block=1, latent_channels=4,
                                       down_block_types=("DownEncoderBlock2D",) * 4).eval()
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction", timestep_type="continuous", timestep_spacing="leading", use_karras_sigmas=True,
        sigma_min=0.002, sigma_max=700.0, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)
    looks = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    return quiet(StableVideoDiffusionPipeline(vae=vae, image_encoder=seer(224), unet=calm(awaken(net, seed)),
                                              scheduler=scheduler, feature_extractor=looks))


def latte(layers: int = 4, seed: int = 0) -> LattePipeline:
    net = LatteTransformer3DModel(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8,
                                  num_layers=layers, cross_attention_dim=24, sample_size=8, patch_size=2,
                                  caption_channels=12,
                                  norm_type="ada_norm_single", video_length=FRAMES, attention_bias=True,
                                  num_embeds_ada_norm=1000, norm_elementwise_affine=False, activation_fn="gelu-approximate")
    return quiet(LattePipeline(tokenizer=None, text_encoder=None, vae=deep_vae(), transformer=awaken(net, seed),
                               scheduler=ddim()))


def film_call(seeds: tuple[int, ...] = (8, 9), call: Any = sd_call, **more: Any) -> dict[str, Any]:
    return call(seeds, **{"num_frames": FRAMES, **more})


def hinted(seeds: tuple[int, ...] = (8,), **more: Any) -> dict[str, Any]:
    return film_call(seeds, **{"conditioning_frames": FILM, "controlnet_conditioning_scale": 0.5, **more})


def sparse_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return hinted(seeds, **{"conditioning_frames": FILM[:1], "controlnet_frame_indices": [0], **more})


def drawn(seeds: tuple[int, ...], frames: int = FRAMES) -> torch.Tensor:
    """Latents of a film, for each seed."""
    return torch.cat([noise(600 + seed, 1, 4, frames, 8, 8) for seed in seeds])


def from_film(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """From the latents of a video, in nine of ten steps."""
    call = sd_call(seeds, **{"strength": 0.9, **more})
    return {"latents": drawn(seeds), **call}


def hinted_film(seeds: tuple[int, ...] = (8,), **more: Any) -> dict[str, Any]:
    return {"conditioning_frames": FILM, "controlnet_conditioning_scale": 0.5, **from_film(seeds, **more)}


def whole_film(seeds: tuple[int, ...] = (8,), **more: Any) -> dict[str, Any]:
    """One film, whose frames take their noise from one generator."""
    call = {"strength": 0.9, **sd_call(seeds, **more), "generator": generators(seeds)[0]}
    return {"video": FILM, **{name: value for name, value in call.items() if name not in ("height", "width")}}


def pictured(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return film_call(seeds, **{"image": PICTURE, **more})


def many(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return pictured(seeds, **{"image": [PICTURE.rotate(30 * seed) for seed in seeds], **more})


def svd_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    scale = more.pop("max_guidance_scale", 4.0)
    return {"image": [PICTURE.rotate(30 * seed) for seed in seeds], "height": SIDE, "width": SIDE, "num_frames": FRAMES,
            "generator": generators(seeds), "min_guidance_scale": scale, "max_guidance_scale": scale,
            "num_inference_steps": 8, "output_type": "latent", **more}


def latte_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return sd_call(seeds, **{"video_length": FRAMES, "negative_prompt": None, "clean_caption": False, **more})


MORE = {case.name: case for case in (
    Video("animatediff", animate, film_call, True),
    Video("animatediff-sdxl", partial(animate, AnimateDiffSDXLPipeline, unet_xl), partial(film_call, call=sdxl_call), True),
    Video("animatediff-control", partial(controlled, AnimateDiffControlNetPipeline), hinted, True),
    Video("animatediff-sparse", sparse, sparse_call, True),
    Video("animatediff-film", partial(animate, AnimateDiffVideoToVideoPipeline), from_film, True),
    Video("animatediff-film-control", partial(controlled, AnimateDiffVideoToVideoControlNetPipeline), hinted_film, True),
    Video("animatediff-pag", partial(animate, AnimateDiffPAGPipeline), partial(film_call, pag_scale=0.0), True),
    Video("pia", pia, many, True),
    Video("modelscope", modelscope, film_call, True),
    Video("modelscope-film", partial(modelscope, VideoToVideoSDPipeline), whole_film, True),
    Video("i2vgen", i2vgen, many, True),
    Video("svd", svd, svd_call, True, "max_guidance_scale"),
    Video("latte", latte, latte_call, True),
)}
