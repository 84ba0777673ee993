"""Kandinsky 6."""

from typing import Any

from .encode import Tensors
from .records import MIDDLE, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

SOUND = (("vis", "aud"),) * 2


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, pooled, mask, *_ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "pooled_projections": pooled,
            **({} if mask is None else {"encoder_attention_mask": mask})}


FAMILY = Family(
    "Kandinsky 6",
    networks=(
        Backbone(
            "Kandinsky6Transformer3DModel",
            stacks=(Stack("visual_transformer_blocks", "video_dec_block.self_attention", *SOUND, ("image",)),),
            per_row=("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep", "audio_hidden_states",
                     "encoder_attention_mask", "visual_token_type_ids"),
            condition=("encoder_hidden_states", "pooled_projections"),
            time_modules=("video_time_embeddings", "audio_time_embeddings"), channels="out_visual_dim", channel_dim=4,
            paired=True, encode=encode, usual_video=(121, 512, 768), token_extent=(4, 16),
        ),
    ),
    pipelines=(Host("Kandinsky6TI2VAPipeline", "calls"),),
    defaults={
        "Kandinsky6Transformer3DModel": {
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
            "cfg": Default({"scale": 5.0}, "diffusers Kandinsky6TI2VAPipeline"),
        },
    },
    examples=(
        Example("Kandinsky 6", "kandinskylab/Kandinsky-6.0-Pro-distill-5s-Diffusers", "Kandinsky6TI2VAPipeline",
                "kandinsky6", "guidance_scale=5.0", output="frames",
                note="with a FlowMatchEulerDiscreteScheduler: the distilled models' own scheduler is not served"),
    ),
)
