"""Small pipelines of still further networks that make videos, as in `small_video`."""

from types import SimpleNamespace
from typing import Any

import diffusers
import torch.nn.functional as F
from diffusers import (
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    ClassifierFreeGuidance,
    Cosmos2_5_PredictBasePipeline,
    Cosmos2TextToImagePipeline,
    Cosmos2VideoToWorldPipeline,
    CosmosTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    MotifVideoImage2VideoPipeline,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
    UniPCMultistepScheduler,
)

from .small import Case, awaken, quiet
from .small_films import frameless, masked
from .small_ragged import Ragged
from .small_video import Video, texts, video_call, wan_network
from .small_video_more import PICTURE
from .small_wan import wan_vae


def _flow(**more: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, **more)


def motif(cls: Any = MotifVideoPipeline, layers: int = 1, single: int = 3, seed: int = 0, scale: float = 4.0) -> Any:
    """Its last block is a decoder."""
    seen = {"image_embed_dim": 3} if cls is MotifVideoImage2VideoPipeline else {}
    net = MotifVideoTransformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=layers,
        num_single_layers=single, num_decoder_layers=1, text_embed_dim=12, rope_axes_dim=(4, 4, 4),
        enable_text_cross_attention_single=True, **seen)
    pipe = cls(scheduler=_flow(), vae=wan_vae(), text_encoder=None, tokenizer=None, transformer=awaken(net, seed),
               guider=ClassifierFreeGuidance(scale), feature_extractor=None)
    if seen:
        pipe.text_encoder = SimpleNamespace(vision_tower=None)
        pipe._get_image_embeds = lambda image, **more: F.avg_pool2d(image, 16).flatten(2).mT
    return quiet(pipe)


class Trusting:
    """A stand-in for what looks at prompts and frames."""

    def to(self, device: Any) -> None:
        pass


def cosmos(cls: Any = Cosmos2TextToImagePipeline, layers: int = 3, seed: int = 0) -> Any:
    given = int(cls is not Cosmos2TextToImagePipeline)  # a channel that says which frames are given
    net = CosmosTransformer3DModel(in_channels=4 + given, out_channels=4, num_attention_heads=2, attention_head_dim=12,
                                   num_layers=layers, mlp_ratio=2.0, text_embed_dim=12, adaln_lora_dim=4, max_size=(4, 8, 8),
                                   concat_padding_mask=False)
    steps: Any = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    if cls is Cosmos2_5_PredictBasePipeline:
        steps = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return quiet(cls(text_encoder=None, tokenizer=None, transformer=awaken(net, seed), vae=wan_vae(), scheduler=steps,
                     safety_checker=Trusting()))


class Heard:
    """A stand-in for what makes waves of the latents of a sound."""

    config, latent_hop_length = SimpleNamespace(sample_rate=24), 1


def anyflow(layers: int = 3, seed: int = 0) -> AnyFlowPipeline:
    net = wan_network(AnyFlowTransformer3DModel, layers, seed)
    return quiet(AnyFlowPipeline(tokenizer=None, text_encoder=None, transformer=net, vae=wan_vae(),
                                 scheduler=FlowMapEulerDiscreteScheduler(shift=3.0)))


def kandinsky6(layers: int = 3, seed: int = 0) -> Any:
    from diffusers import Kandinsky6TI2VAPipeline, Kandinsky6Transformer3DModel

    net = Kandinsky6Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=12, in_text_dim2=10, time_dim=8, model_dim=24, ff_dim=32,
        num_text_blocks=1, num_visual_blocks=layers, axes_dims=(4, 4, 4), in_audio_dim=3, out_audio_dim=3,
        text_token_padding=True, ca_rope=True, cross_gates=True, fix_modulation=True, visual_token_type_num_embeddings=2)
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    awaken(net, seed)
    for block in net.visual_transformer_blocks:  # sharper maps: those of so few tokens are nearly even
        block.video_dec_block.self_attention.query_norm.weight.data.mul_(6)
    return quiet(Kandinsky6TI2VAPipeline(transformer=net, scheduler=_flow(), audio_vae=Heard(), vocoder=Heard(),
                                         **parts))


def unguided_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Without guidance, where a negative prompt is one row too many."""
    call = video_call(seeds, **{"guidance_scale": 1.0, **more})
    return {name: value for name, value in call.items() if not name.startswith("negative")}


def kandinsky6_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """With five samples of sound."""
    pooled = {"pooled_prompt_embeds": texts(seeds, 150, 10),
              "negative_pooled_prompt_embeds": texts((0,) * len(seeds), 950, 10)}
    return video_call(seeds, **{**pooled, "frame_rate": 24.0, **more})


def motif_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Its scale is its guider's."""
    return {name: value for name, value in masked(video_call)(seeds, **more).items() if name != "guidance_scale"}


def motif_image_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """One video a call: it makes no more."""
    return motif_call(seeds[:1], **{"image": PICTURE, "prompt": None, **more})


def cosmos_image_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return frameless(video_call)(seeds, **{"height": 32, "width": 48, **more})


def cosmos_video_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return video_call(seeds, **{"image": [PICTURE] * len(seeds), **more})


MORE: dict[str, Case] = {case.name: case for case in (
    Video("motif-video", motif, motif_call, True),
    Video("motif-video-image", lambda **kw: motif(MotifVideoImage2VideoPipeline, **kw), motif_image_call, True),
    Ragged("cosmos-2-image", cosmos, cosmos_image_call, True),
    Video("cosmos-2-video", lambda **kw: cosmos(Cosmos2VideoToWorldPipeline, **kw), cosmos_video_call, True),
    Video("anyflow", anyflow, video_call, True),
    Video("anyflow-off", anyflow, unguided_call, False),
    *([Video("kandinsky6", kandinsky6, kandinsky6_call, True)] if hasattr(diffusers, "Kandinsky6TI2VAPipeline") else []),
    Video("cosmos-2.5", lambda **kw: cosmos(Cosmos2_5_PredictBasePipeline, **kw), video_call, True),
)}
"""Videos of networks that no other module has."""
