"""Mochi."""



from .encode import states_and_mask
from .records import DUAL, EARLY, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

FAMILY = Family(
    "Mochi",
    networks=(
        Backbone(
            "MochiTransformer3DModel",
            stacks=(Stack("transformer_blocks", "attn1", *DUAL, ("image", "text"), each_sample=True),),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"),
            condition=("encoder_hidden_states",),
            kwargs="attention_kwargs", time_modules=("time_embed.timestep_embedder",), negated=True,
            encode=states_and_mask, usual_text=256, usual_video=(19, 480, 848), token_extent=(6, 16),
        ),
    ),
    pipelines=(
        Host("MochiPipeline", "neg-pos"),
    ),
    defaults={
        "MochiTransformer3DModel": {
            "stg": Default({"scale": 2.0, "layers": (34 / 48,)}, "the authors' s 1, block 34 of 48"),
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 4.5}, "diffusers MochiPipeline"),
        },
    },
    examples=(
        Example("Mochi 1", "genmo/mochi-1-preview", "MochiPipeline", "mochi", "guidance_scale=4.5", output="frames"),
    ),
)
