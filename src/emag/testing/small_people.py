"""Small pipelines that make videos of a person: ConsisID from a face, Wan Animate after the pose and the face of another."""

from typing import Any

import torch
from diffusers import (
    ConsisIDTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
)

# where OpenCV is missing, diffusers exports a stand-in; the module itself draws the face's points with it, and no more
from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline
from PIL import Image
from transformers import CLIPImageProcessor

from .small import TEXT, Case, awaken, noise, quiet
from .small_video import Video, wan_network
from .small_video_more import cogvideox_image_call, with_cogvideox_vae
from .small_wan import picture_call, picture_encoder, wan_vae

FACE = 8
"""Side of a picture of a face that Wan Animate is shown."""
SEGMENT = 5
"""Frames that Wan Animate makes at a time; the first of a later segment is the last one of that before."""


def consisid(layers: int = 4, seed: int = 0) -> ConsisIDPipeline:
    net = ConsisIDTransformer3DModel(
        num_attention_heads=3, attention_head_dim=16, in_channels=8, out_channels=4, time_embed_dim=8, text_embed_dim=12,
        num_layers=layers, sample_width=40, sample_height=40, sample_frames=9, patch_size=2, max_text_seq_length=TEXT,
        use_rotary_positional_embeddings=True, is_train_face=True, cross_attn_interval=1, cross_attn_dim_head=8,
        cross_attn_num_heads=2, LFE_id_dim=10, LFE_vit_dim=8, LFE_depth=2, LFE_dim_head=4, LFE_num_heads=2,
        LFE_num_id_token=2, LFE_num_querie=3, LFE_output_dim=32, LFE_ff_mult=2, LFE_num_scale=2)
    return with_cogvideox_vae(ConsisIDPipeline, awaken(net, seed))


def consisid_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """One face for all videos, as the insight and the sight of it that its encoders would give."""
    face = {"id_cond": noise(500, 1, 10), "id_vit_hidden": [noise(501 + depth, 1, 4, 8) for depth in range(2)]}
    return cogvideox_image_call(seeds, **{**face, **more})


def wan_animate(layers: int = 4, seed: int = 0) -> WanAnimatePipeline:
    net = wan_network(WanAnimateTransformer3DModel, layers, seed, in_channels=12, latent_channels=4, image_dim=8,
                      added_kv_proj_dim=24, motion_encoder_channel_sizes={"4": 8, "8": 8}, motion_encoder_size=FACE,
                      motion_style_dim=8, motion_dim=4, motion_encoder_dim=8, face_encoder_hidden_dim=8,
                      face_encoder_num_heads=2, inject_face_latents_blocks=1)
    return quiet(WanAnimatePipeline(
        tokenizer=None, text_encoder=None, vae=wan_vae(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=8), image_encoder=picture_encoder(),
        transformer=net))


def film(base: int, side: int, frames: int = 2 * SEGMENT - 1) -> list[Image.Image]:
    """Frames of noise: as many as two segments have."""
    drawn = (torch.stack([noise(base + at, side, side, 3) for at in range(frames)]) * 64 + 128).clamp(0, 255).byte()
    return [Image.fromarray(frame) for frame in drawn.numpy()]


def wan_animate_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Two segments; what the pipeline gives back are the latents of the second."""
    call = picture_call(seeds, **{"pose_video": film(600, 32), "face_video": film(650, FACE),
                                  "segment_frame_length": SEGMENT, **more})
    return {name: value for name, value in call.items() if name != "num_frames"}


MORE: dict[str, Case] = {case.name: case for case in (
    Video("consisid", consisid, consisid_call, True),
    Video("wan-animate", wan_animate, wan_animate_call, True),
)}
