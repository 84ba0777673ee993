"""EasyAnimate."""

from typing import Any

from .encode import Tensors
from .records import DUAL, EARLY, RESCALE, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    return {"encoder_hidden_states": pipe.encode_prompt(texts, do_classifier_free_guidance=False)[0]}


FAMILY = Family(
    "EasyAnimate",
    networks=(
        Backbone(
            "EasyAnimateTransformer3DModel",
            stacks=(Stack("transformer_blocks", "attn1", *DUAL, ("text", "image")),),
            per_row=("hidden_states", "timestep", "timestep_cond", "encoder_hidden_states", "encoder_hidden_states_t5",
                     "inpaint_latents", "control_latents"),
            condition=("encoder_hidden_states",), time_modules=("time_embedding",),
            encode=encode, usual_text=256, usual_video=(49, 512, 512), token_extent=(4, 16),
        ),
    ),
    pipelines=(
        Host("EasyAnimatePipeline", "neg-pos", rescales=RESCALE),
        Host("EasyAnimateInpaintPipeline", "neg-pos", rescales=RESCALE, strength="strength"),
    ),
    defaults={
        "EasyAnimateTransformer3DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 5.0}, "diffusers EasyAnimatePipeline"),
        },
    },
    examples=(
        Example("EasyAnimate 5.1", "alibaba-pai/EasyAnimateV5.1-12b-zh-diffusers", "EasyAnimatePipeline", "easyanimate",
                "guidance_scale=5.0", output="frames"),
    ),
)
