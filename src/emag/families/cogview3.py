"""CogView3-Plus."""

from .encode import text_states
from .records import DUAL, EARLY, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

FAMILY = Family(
    "CogView3-Plus",
    networks=(
        Backbone(
            "CogView3PlusTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn1", *DUAL, ("text", "image")),),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "original_size", "target_size", "crop_coords"),
            condition=("encoder_hidden_states",), time_modules=("time_condition_embed.timestep_embedder",), placed=False,
            encode=text_states, usual_text=224,
        ),
    ),
    pipelines=(Host("CogView3PlusPipeline", "neg-pos"),),
    defaults={
        "CogView3PlusTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 5.0}, "diffusers CogView3PlusPipeline"),
        },
    },
    examples=(
        Example("CogView3-Plus", "THUDM/CogView3-Plus-3B", "CogView3PlusPipeline", "cogview3", "guidance_scale=5.0"),
    ),
)
