"""Wan 2.1 and 2.2, Wan VACE."""

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


FAMILY = Family(
    "Wan 2.1 and 2.2, Wan VACE",
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
    ),
    pipelines=(
        Host("WanPipeline", "calls", second="transformer_2", boundary="boundary_ratio"),
        Host("WanImageToVideoPipeline", "calls", second="transformer_2", boundary="boundary_ratio"),
        Host("WanVACEPipeline", "calls", second="transformer_2", boundary="boundary_ratio"),
        Host("LucyEditPipeline", "calls", second="transformer_2", boundary="boundary_ratio"),
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
    },
    examples=(
        Example("Wan 2.1", "Wan-AI/Wan2.1-T2V-14B-Diffusers", "WanPipeline", "wan", "guidance_scale=5.0", output="frames"),
        Example("Wan 2.2", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", "WanPipeline", "wan-experts", "guidance_scale=4.0",
                output="frames", note="two experts: EMAG's average starts afresh where the second takes over"),
        Example("Wan VACE", "Wan-AI/Wan2.1-VACE-1.3B-diffusers", "WanVACEPipeline", "wan-vace", "guidance_scale=5.0",
                output="frames"),
    ),
)
