"""Chroma."""

from typing import Any

from .encode import Tensors
from .records import EARLY, JOINT, MERGED, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, ids, mask, *_ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "txt_ids": ids, "attention_mask": mask}


FAMILY = Family(
    "Chroma",
    networks=(
        Backbone(
            "ChromaTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn", *JOINT, ("text", "image")),
                    Stack("single_transformer_blocks", "attn", *MERGED, ("text", "image"))),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "attention_mask", "controlnet_block_samples",
                     "controlnet_single_block_samples"),
            condition=("encoder_hidden_states",),
            kwargs="joint_attention_kwargs", kwargs_rows=("ip_adapter_image_embeds", "ip_hidden_states"),
            image_prompt="joint_attention_kwargs.ip_adapter_image_embeds",
            time_scale=1000.0, grid_ids="img_ids", joint_mask="attention_mask", text_ids=(3, ()),
            encode=encode, usual_text=512,
        ),
    ),
    pipelines=(
        Host("ChromaPipeline", "calls-untagged"),
        Host("ChromaImg2ImgPipeline", "calls-untagged", strength="strength"),
        Host("ChromaInpaintPipeline", "calls-untagged", strength="strength"),
    ),
    defaults={
        "ChromaTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 5.0}, "diffusers ChromaPipeline"),
        },
    },
    examples=(
        Example("Chroma", "lodestones/Chroma1-HD", "ChromaPipeline", "chroma", "guidance_scale=5.0"),
    ),
)
