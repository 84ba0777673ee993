"""Qwen-Image."""

from typing import Any

from .encode import Tensors
from .records import EARLY, JOINT, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

QWEN_NEGATIVE = (("negative_prompt",), ("negative_prompt_embeds",))


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, mask = pipe.encode_prompt(texts)
    return {"encoder_hidden_states": states, **({} if mask is None else {"encoder_hidden_states_mask": mask})}


FAMILY = Family(
    "Qwen-Image",
    networks=(
        Backbone(
            "QwenImageTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn", *JOINT, ("text", "image")),),
            per_row=("hidden_states", "encoder_hidden_states", "encoder_hidden_states_mask", "timestep", "guidance",
                     "controlnet_block_samples", "additional_t_cond"),
            condition=("encoder_hidden_states",), kwargs="attention_kwargs",
            time_scale=1000.0, grid_ids="img_shapes", references=True, layered="use_layer3d_rope",
            time_modules=("time_text_embed.timestep_embedder",),
            encode=encode, usual_text=128,
        ),
    ),
    pipelines=(
        Host("QwenImagePipeline", "calls", scale="true_cfg_scale",
             negative=(("negative_prompt",), ("negative_prompt_embeds",))),
        Host("QwenImageImg2ImgPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, strength="strength"),
        Host("QwenImageInpaintPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, strength="strength"),
        Host("QwenImageControlNetPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE),
        Host("QwenImageControlNetInpaintPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE),
        Host("QwenImageEditPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, pictured=True),
        Host("QwenImageEditPlusPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, pictured=True),
        Host("QwenImageEditInpaintPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, strength="strength",
             sized=False, pictured=True),
        Host("QwenImageLayeredPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, sized=False,
             rescales=(("cfg_normalize", False),)),
    ),
    defaults={
        "QwenImageTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 4.0},
                           "diffusers QwenImagePipeline, which rescales to the conditional norm and we do not"),
        },
    },
    examples=(
        Example("Qwen-Image", "Qwen/Qwen-Image", "QwenImagePipeline", "qwen", 'negative_prompt=" ", true_cfg_scale=4.0'),
        Example("Qwen-Image-Edit", "Qwen/Qwen-Image-Edit", "QwenImageEditPipeline", "qwen-edit",
                'negative_prompt=" ", true_cfg_scale=4.0', prompt='photo, "make it night"', note="`photo` is a PIL image"),
    ),
)
