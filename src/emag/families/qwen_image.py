"""Qwen-Image."""

from typing import Any

from .encode import Tensors
from .records import EARLY, JOINT, MERGED, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

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
        Backbone(
            "QwenImage21Transformer2DModel",
            # one stream, whose text is read in order, and whose image reads all of it
            stacks=(Stack("transformer_blocks", "attn", *MERGED, ("text", "image"), keys=("text", "image"), apart=True),),
            per_row=("hidden_states", "encoder_hidden_states", "encoder_hidden_states_mask", "timestep", "img_mask"),
            condition=("encoder_hidden_states",), kwargs="attention_kwargs", time_scale=1000.0, grid_ids="img_shapes",
            patch=1, behind=True, time_modules=("time_text_embed.timestep_embedder",),
            unserved=(("kv_cache", "it keeps what one pass saw for others: say use_kv_cache=False"),), usual_text=128,
            latent_pixels=16,
        ),
    ),
    pipelines=(
        Host("QwenImage21Pipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, kept=(("use_kv_cache", False),),
             refused=(("image", "its tokens stand among those of the text"),)),
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
        "QwenImage21Transformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 4.0}, "untested default: Qwen-Image's"),
        },
        "QwenImageTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 4.0},
                           "diffusers QwenImagePipeline, which rescales to the conditional norm and we do not"),
        },
    },
    examples=(
        Example("Qwen-Image", "Qwen/Qwen-Image", "QwenImagePipeline", "qwen", 'negative_prompt=" ", true_cfg_scale=4.0'),
        Example("Qwen-Image 2.1", "Qwen/Qwen-Image-2.1", "QwenImage21Pipeline", "qwen-2.1",
                'negative_prompt=" ", true_cfg_scale=4.0', note="pictures in the prompt are not served"),
        Example("Qwen-Image-Edit", "Qwen/Qwen-Image-Edit", "QwenImageEditPipeline", "qwen-edit",
                'negative_prompt=" ", true_cfg_scale=4.0', prompt='photo, "make it night"', note="`photo` is a PIL image"),
    ),
)
