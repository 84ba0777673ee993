"""AnyFlow, Wan's network taught to jump from one noise level to another."""

from typing import Any

from .encode import Tensors
from .records import SINGLE, Backbone, Default, Example, Family, Host, Stack
from .wan import LIKE_WAN


def encode(pipe: Any, texts: list[str]) -> Tensors:
    return {"encoder_hidden_states": pipe.encode_prompt(texts, do_classifier_free_guidance=False)[0]}


FAMILY = Family(
    "AnyFlow",
    networks=(
        Backbone(
            "AnyFlowTransformer3DModel",
            stacks=(Stack("blocks", "attn1", *SINGLE, ("image",), "attn2"),),
            per_row=("hidden_states", "timestep", "r_timestep", "encoder_hidden_states", "encoder_hidden_states_image"),
            condition=("encoder_hidden_states",), kwargs="attention_kwargs", channel_dim=2,
            time_modules=("condition_embedder.time_embedder", "condition_embedder.delta_embedder"),
            encode=encode, usual_video=(81, 480, 832), token_extent=(4, 16),
        ),
    ),
    pipelines=(Host("AnyFlowPipeline", "neg-pos"),),
    defaults={
        "AnyFlowTransformer3DModel": {**LIKE_WAN, "cfg": Default({"scale": 5.0}, "untested default: Wan's; its models are "
                                                                                 "made for 1")},
    },
    examples=(
        Example("AnyFlow", "nvidia/AnyFlow-Wan2.1-T2V-14B-Diffusers", "AnyFlowPipeline", "anyflow-off",
                "num_inference_steps=4", output="frames", note="distilled: EMAG pushes on the one prediction there is"),
    ),
)
