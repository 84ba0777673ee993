"""Wan 2.1 and 2.2, Wan VACE, Wan Animate."""

from collections.abc import Mapping
from typing import Any

from .encode import Tensors
from .records import CROSS, MIDDLE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack

WAN = Stack("blocks", "attn1", *SINGLE, ("image",), "attn2", cross_picture="add_k_proj")

LIKE_WAN = {
    **CROSS,
    "nag": Default({"scale": 6.0, "alpha": 0.25, "sigma_end": 0.0, "cross": True}, "untested default: Wan's"),
    "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
    "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
}
"""Defaults of networks that are built as Wan's is."""


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False, max_sequence_length=512)
    return {"encoder_hidden_states": states}


def segments(pipe: Any, arguments: Mapping[str, Any]) -> int:
    """Loops of Wan Animate: each makes a segment, whose first frames are the last ones of the segment before."""
    every, shared = pipe.vae_scale_factor_temporal, arguments["prev_segment_conditioning_frames"]
    new = arguments["segment_frame_length"] // every * every + 1 - shared
    frames = len(arguments["pose_video"])
    return (frames + (shared - frames) % new) // new  # the last segment is filled up


FAMILY = Family(
    "Wan 2.1 and 2.2, Wan VACE, Wan Animate",
    networks=(
        Backbone(
            "WanTransformer3DModel",
            stacks=(WAN,),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"),
            condition=("encoder_hidden_states",),
            kwargs="attention_kwargs", time_modules=("condition_embedder.time_embedder",),
            encode=encode, usual_video=(81, 480, 832), token_extent=(4, 16),
        ),
        Backbone(  # its control blocks run before the others in every pass, weak ones too, and are not counted
            "WanVACETransformer3DModel",
            stacks=(WAN,),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image",
                     "control_hidden_states"),
            condition=("encoder_hidden_states",),
            kwargs="attention_kwargs", time_modules=("condition_embedder.time_embedder",),
            encode=encode, usual_video=(81, 480, 832), token_extent=(4, 16),
        ),
        Backbone(  # what it sees of the face goes in between the blocks, in every pass
            "WanAnimateTransformer3DModel",
            stacks=(WAN,),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image",
                     "pose_hidden_states", "face_pixel_values"),
            condition=("encoder_hidden_states",),
            kwargs="attention_kwargs", time_modules=("condition_embedder.time_embedder",),
            # 77 frames, and the latent of the picture before them
            encode=encode, usual_video=(81, 720, 1280), token_extent=(4, 16),
        ),
    ),
    pipelines=(
        Host("WanPipeline", "calls", second="transformer_2", boundary="boundary_ratio"),
        Host("WanImageToVideoPipeline", "calls", second="transformer_2", boundary="boundary_ratio"),
        Host("WanVACEPipeline", "calls", second="transformer_2", boundary="boundary_ratio"),
        Host("LucyEditPipeline", "calls", second="transformer_2", boundary="boundary_ratio"),
        Host("WanAnimatePipeline", "calls", parts=segments),
        Host("WanVideoToVideoPipeline", "calls-untagged", strength="strength", floored=True),
    ),
    defaults={
        "WanTransformer3DModel": {
            "stg": Default({"scale": 2.0, "layers": (2 / 30,)}, "the authors' s 1, block 2; of 30 (1.3B) is unconfirmed"),
            **CROSS,
            "nag": Default({"scale": 6.0, "alpha": 0.25, "sigma_end": 0.0, "cross": True},
                           "the authors' ComfyUI workflow for Wan, with CFG 8; for 4 steps 11, 0.5, 0.75 and tau 3.5"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "the authors' Wan-1.3B: s 1.7 to 1.9, bias -0.2"),
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
            "cfg": Default({"scale": 5.0}, "diffusers WanPipeline"),
        },
        "WanVACETransformer3DModel": {**LIKE_WAN, "cfg": Default({"scale": 5.0}, "diffusers WanVACEPipeline")},
        "WanAnimateTransformer3DModel": {
            **LIKE_WAN, "cfg": Default({"scale": 5.0}, "untested default: Wan's; its own pipeline goes without")},
    },
    examples=(
        Example("Wan 2.1", "Wan-AI/Wan2.1-T2V-14B-Diffusers", "WanPipeline", "wan", "guidance_scale=5.0", output="frames"),
        Example("Wan 2.2", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", "WanPipeline", "wan-experts", "guidance_scale=4.0",
                output="frames", note="two experts: EMAG's average starts afresh where the second takes over"),
        Example("Wan VACE", "Wan-AI/Wan2.1-VACE-1.3B-diffusers", "WanVACEPipeline", "wan-vace", "guidance_scale=5.0",
                output="frames"),
        Example("Wan Animate", "Wan-AI/Wan2.2-Animate-14B-Diffusers", "WanAnimatePipeline", "wan-animate",
                "pose_video=poses, face_video=faces", 'photo, prompt="a dancer"', output="frames",
                note="`photo` is a PIL image, `poses` and `faces` are lists of them; a long video is made in segments, and "
                     "rules begin afresh in each"),
    ),
)
