"""Further small pipelines that are given a picture or a video, of networks that the other modules have."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTXVideo,
    CogVideoXFunControlPipeline,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTX2ConditionPipeline,
    LTXConditionPipeline,
    LucyEditPipeline,
)
from PIL import Image
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from .small import Case, awaken, quiet
from .small_video import Video, cogvideox, hunyuan_call, hunyuan_true_call, hunyuan_video, ltx, ltx_call, texts, video_call
from .small_video import wan_network as wan_net
from .small_video_more import (
    PICTURE,
    hunyuan_15_call,
    hunyuan_video_15,
    ltx2,
    ltx2_call,
    with_cogvideox_vae,
)
from .small_wan import _with_vae

FILM = [Image.linear_gradient("L").convert("RGB").rotate(30 * at).resize((32, 32)) for at in range(5)]
"""Five frames."""


def hunyuan_vae() -> AutoencoderKLHunyuanVideo:
    torch.manual_seed(0)
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=1, scaling_factor=1.0,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        mid_block_add_attention=False).eval()


def hunyuan_image(cls: Any = HunyuanVideoImageToVideoPipeline, kind: str | None = "latent_concat", channels: int = 9,
                  layers: int = 2, single: int = 2, seed: int = 0, guidance: bool = False) -> Any:
    """kind: a picture in further channels, or in the place of the first frame's tokens."""
    made = hunyuan_video(layers, single, seed)
    config = {name: value for name, value in made.transformer.config.items() if not name.startswith("_")}
    net = HunyuanVideoTransformer3DModel(**{**config, "in_channels": channels, "image_condition_type": kind,
                                            "guidance_embeds": guidance})
    parts = {**made.components, "transformer": awaken(net, seed), "vae": hunyuan_vae()}
    more = {} if cls is HunyuanSkyreelsImageToVideoPipeline else {"image_processor": None}
    return quiet(cls(**parts, **more))


def hunyuan_15_image(**settings: Any) -> HunyuanVideo15ImageToVideoPipeline:
    made = hunyuan_video_15(**settings)
    torch.manual_seed(0)
    seen = SiglipVisionModel(SiglipVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                                num_attention_heads=2, image_size=16, patch_size=8)).eval()
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(32,) * 4, layers_per_block=1,
                                      spatial_compression_ratio=8, temporal_compression_ratio=4,
                                      downsample_match_channel=False, upsample_match_channel=False)
    seeing = SiglipImageProcessor(size={"height": 16, "width": 16})
    pipe = quiet(HunyuanVideo15ImageToVideoPipeline(**{**made.components, "vae": vae}, image_encoder=seen,
                                                    feature_extractor=seeing))
    pipe.target_size = 32
    return pipe


def ltx_condition(layers: int = 4, seed: int = 0) -> LTXConditionPipeline:
    torch.manual_seed(0)
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, True, False), decoder_spatio_temporal_scaling=(True, True, True, False),
        decoder_inject_noise=(False,) * 5, patch_size=4, patch_size_t=1).eval()
    made = ltx(layers, seed)
    return quiet(LTXConditionPipeline(**{**made.components, "vae": still(vae)}))


def still(vae: Any) -> Any:
    """`vae`, whose pictures are encoded by their means."""
    encode = vae.encode

    def means(*args: Any, **kwargs: Any) -> Any:
        found = encode(*args, **kwargs)
        found.latent_dist.sample = lambda generator=None: found.latent_dist.mean
        return found

    vae.encode = means
    return vae


def cogvideox_control(layers: int = 4, seed: int = 0) -> CogVideoXFunControlPipeline:
    return with_cogvideox_vae(CogVideoXFunControlPipeline, cogvideox(layers, seed, in_channels=8).transformer)


def lucy(layers: int = 4, seed: int = 0) -> LucyEditPipeline:
    """The video to edit is in further channels."""
    return _with_vae(LucyEditPipeline, wan_net(layers=layers, seed=seed, in_channels=8))


def beside(call: Any) -> Any:
    """`call` with one picture for all videos."""
    return lambda seeds=(8, 9), **more: call(seeds, **{"image": PICTURE, **more})


def given(call: Any) -> Any:
    """`call` with a picture for each video."""
    return lambda seeds=(8, 9), **more: call(seeds, **{"image": [PICTURE] * len(seeds), **more})


def edit_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return video_call(seeds, **{"video": [FILM] * len(seeds), "num_frames": 5, **more})


def followed_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    call = video_call(seeds, **more)
    return {"control_video": [FILM] * len(seeds), **{name: value for name, value in call.items() if name != "num_frames"}}


def condition_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return ltx2_call(seeds, **{"num_frames": 9, "latents": texts(seeds, 400, 4, 3, 4, 4), **more})


def sizeless(call: Any) -> Any:
    """`call` of a pipeline that takes its size from the picture."""
    return lambda seeds=(8, 9), **more: {name: value for name, value in call(seeds, **more).items()
                                         if name not in ("height", "width")}


TRUE = "true_cfg_scale"

MORE: dict[str, Case] = {case.name: case for case in (
    Video("hunyuan-video-image", hunyuan_image, given(hunyuan_call), False),
    Video("hunyuan-video-image-cfg", hunyuan_image, given(hunyuan_true_call), True, TRUE),
    Video("hunyuan-video-frame", lambda **kw: hunyuan_image(kind="token_replace", channels=4, **kw),
          given(hunyuan_true_call), True, TRUE),
    Video("hunyuan-skyreels", lambda **kw: hunyuan_image(HunyuanSkyreelsImageToVideoPipeline, None, 8, guidance=True, **kw),
          given(hunyuan_true_call), True, TRUE),
    Video("hunyuan-video-1.5-image", hunyuan_15_image, sizeless(beside(hunyuan_15_call)), True),
    Video("ltx-condition", ltx_condition, given(ltx_call), True),
    Video("ltx-2-condition", lambda **kw: ltx2(LTX2ConditionPipeline, **kw), condition_call, True),
    Video("cogvideox-control", cogvideox_control, followed_call, True),
    Video("lucy", lucy, edit_call, True),
)}
"""Pictures and videos that a video starts from, or follows."""
