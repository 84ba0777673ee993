"""HiDream-I1."""

from typing import Any

from .encode import Tensors
from .records import DUAL, EARLY, MERGED, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

_EMAG = Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth")


def encode(pipe: Any, texts: list[str]) -> Tensors:
    t5, _, llama, _, pooled, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"encoder_hidden_states_t5": t5, "encoder_hidden_states_llama3": llama.movedim(1, 0), "pooled_embeds": pooled}


FAMILY = Family(
    "HiDream-I1",
    networks=(
        Backbone(
            "HiDreamImageTransformer2DModel",
            stacks=(Stack("double_stream_blocks", "block.attn1", *DUAL, ("image", "text"), padded=True),
                    Stack("single_stream_blocks", "block.attn1", *MERGED, ("image", "text"))),
            per_row=("hidden_states", "timesteps", "encoder_hidden_states_t5", "encoder_hidden_states_llama3",
                     "pooled_embeds"),
            condition=("encoder_hidden_states_t5", "encoder_hidden_states_llama3", "pooled_embeds"),
            text="encoder_hidden_states_t5", timestep="timesteps", kwargs="attention_kwargs",
            time_modules=("t_embedder",), negated=True, row_dims=(("encoder_hidden_states_llama3", 1),),
            encode=encode, usual_text=384,  # 128 of T5, and of Llama twice
        ),
    ),
    pipelines=(
        Host("HiDreamImagePipeline", "neg-pos"),
    ),
    defaults={
        "HiDreamImageTransformer2DModel": {
            "emag": _EMAG, "cfg": Default({"scale": 5.0}, "diffusers HiDreamImagePipeline"),
        },
    },
    examples=(
        Example("HiDream-I1", "HiDream-ai/HiDream-I1-Full", "HiDreamImagePipeline", "hidream", "guidance_scale=5.0"),
    ),
)
