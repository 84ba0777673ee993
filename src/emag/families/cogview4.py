"""CogView4."""



from .encode import text_states
from .records import EARLY, JOINT, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

FAMILY = Family(
    "CogView4",
    networks=(
        Backbone(
            "CogView4Transformer2DModel",
            stacks=(Stack("transformer_blocks", "attn1", JOINT[0], JOINT[0], ("text", "image")),),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "original_size", "target_size", "crop_coords",
                     "attention_mask"),
            condition=("encoder_hidden_states",), kwargs="attention_kwargs",
            time_modules=("time_condition_embed.timestep_embedder",),
            encode=text_states, usual_text=128,
        ),
    ),
    pipelines=(
        Host("CogView4Pipeline", "calls"),
        Host("CogView4ControlPipeline", "calls-untagged"),
    ),
    defaults={
        "CogView4Transformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 5.0}, "diffusers CogView4Pipeline"),
        },
    },
    examples=(
        Example("CogView4", "THUDM/CogView4-6B", "CogView4Pipeline", "cogview4", "guidance_scale=5.0"),
    ),
)
