"""HunyuanVideo and HunyuanVideo 1.5."""

from typing import Any

from .encode import Tensors
from .records import DUAL, EARLY, FLUX_NEGATIVE, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack


def encode_hunyuan_video(pipe: Any, texts: list[str]) -> Tensors:
    states, pooled, mask = pipe.encode_prompt(texts)
    return {"encoder_hidden_states": states, "pooled_projections": pooled, "encoder_attention_mask": mask}


def encode_hunyuan_video_15(pipe: Any, texts: list[str]) -> Tensors:
    """Both encoders: what to show, and the letters in it."""
    states, mask, letters, letters_mask = pipe.encode_prompt(texts, batch_size=len(texts))
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask, "encoder_hidden_states_2": letters,
            "encoder_attention_mask_2": letters_mask}


FAMILY = Family(
    "HunyuanVideo and HunyuanVideo 1.5",
    networks=(
        Backbone(
            "HunyuanVideoTransformer3DModel",
            stacks=(Stack("transformer_blocks", "attn", *DUAL, ("image", "text")),
                    Stack("single_transformer_blocks", "attn", *DUAL, ("image", "text"))),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "pooled_projections",
                     "guidance"),
            condition=("encoder_hidden_states", "pooled_projections"),
            kwargs="attention_kwargs",
            time_modules=("time_text_embed.timestep_embedder", "context_embedder.time_text_embed.timestep_embedder"),
            encode=encode_hunyuan_video, usual_text=256, usual_video=(129, 720, 1280), token_extent=(4, 16),
        ),
        Backbone(
            "HunyuanVideo15Transformer3DModel",
            stacks=(Stack("transformer_blocks", "attn", *DUAL, ("image", "text")),),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "timestep_r",
                     "encoder_hidden_states_2", "encoder_attention_mask_2", "image_embeds"),
            condition=("encoder_hidden_states", "encoder_hidden_states_2"),
            kwargs="attention_kwargs",
            time_modules=("time_embed.timestep_embedder", "context_embedder.time_text_embed.timestep_embedder"),
            encode=encode_hunyuan_video_15, usual_text=1985, usual_video=(121, 480, 848), token_extent=(4, 16),
        ),
    ),
    pipelines=(
        Host("HunyuanVideo15Pipeline", "calls", guider="guider"),
        Host("HunyuanVideoPipeline", "calls", scale="true_cfg_scale", negative=FLUX_NEGATIVE),
        Host("HunyuanVideo15ImageToVideoPipeline", "calls", guider="guider", sized=False),
        Host("HunyuanVideoImageToVideoPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE,
             pictured=True),
        Host("HunyuanSkyreelsImageToVideoPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE),
    ),
    defaults={
        "HunyuanVideoTransformer3DModel": {
            "stg": Default({"scale": 2.0, "layers": (2 / 60,)}, "the authors' s 1, block 2 of 60"),
            "nag": Default({"scale": 9.0, "alpha": 0.12, "sigma_end": 0.9},
                           "the authors' ComfyUI workflow for HunyuanVideo"),
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 6.0}, "untested default"),
        },
        "HunyuanVideo15Transformer3DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 7.5}, "diffusers' ClassifierFreeGuidance"),
        },
    },
    examples=(
        Example("HunyuanVideo", "hunyuanvideo-community/HunyuanVideo", "HunyuanVideoPipeline", "hunyuan-video",
                "guidance_scale=6.0", output="frames", note="guidance-distilled"),
        Example("HunyuanVideo 1.5", "hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v", "HunyuanVideo15Pipeline",
                "hunyuan-video-1.5", output="frames", note="its guidance scale is that of the pipeline's `guider`"),
    ),
)
