"""Nucleus-Image."""

from typing import Any

from .encode import Tensors
from .records import EARLY, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, mask = pipe.encode_prompt(texts, max_sequence_length=pipe.default_max_sequence_length)
    return {"encoder_hidden_states": states, **({} if mask is None else {"encoder_hidden_states_mask": mask})}


FAMILY = Family(
    "Nucleus-Image",
    networks=(
        Backbone(
            "NucleusMoEImageTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn", *SINGLE, ("image",), keys=("image", "text")),),
            per_row=("hidden_states", "encoder_hidden_states", "encoder_hidden_states_mask", "timestep"),
            condition=("encoder_hidden_states",), kwargs="attention_kwargs", time_scale=1000.0, negated=True,
            time_modules=("time_text_embed.timestep_embedder",), grid_ids="img_shapes", encode=encode, usual_text=128,
            # a cache of the text's keys goes without these after the first step
            optional=("*.experts", "*.processor", "*.encoder_proj", "*.add_k_proj", "*.add_v_proj", "*.norm_added_k"),
        ),
    ),
    pipelines=(Host("NucleusMoEImagePipeline", "calls-untagged"),),
    defaults={
        "NucleusMoEImageTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 4.0}, "diffusers NucleusMoEImagePipeline, which rescales to the conditional norm and "
                                           "we do not"),
        },
    },
    examples=(
        Example("Nucleus-Image", "NucleusAI/NucleusMoE-Image", "NucleusMoEImagePipeline", "nucleus", "guidance_scale=4.0"),
    ),
)
