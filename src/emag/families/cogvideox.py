"""CogVideoX."""



from .encode import text_states
from .records import DUAL, EARLY, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

FAMILY = Family(
    "CogVideoX",
    networks=(
        Backbone(
            "CogVideoXTransformer3DModel",
            stacks=(Stack("transformer_blocks", "attn1", *DUAL, ("text", "image")),),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "timestep_cond", "ofs"),
            condition=("encoder_hidden_states",),
            kwargs="attention_kwargs", time_modules=("time_embedding",), channel_dim=2,
            placed="use_rotary_positional_embeddings",
            encode=text_states, usual_text=226, usual_video=(49, 480, 720), token_extent=(4, 16),
        ),
    ),
    pipelines=(
        Host("CogVideoXPipeline", "neg-pos"),
        Host("CogVideoXImageToVideoPipeline", "neg-pos"),
        Host("CogVideoXVideoToVideoPipeline", "neg-pos", strength="strength", floored=True),
        Host("CogVideoXFunControlPipeline", "neg-pos"),
    ),
    defaults={
        "CogVideoXTransformer3DModel": {
            "stg": Default({"scale": 2.0, "layers": (11 / 42,)}, "the authors' s 1, block 11; of 42 (5B) is unconfirmed"),
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 6.0}, "diffusers CogVideoXPipeline"),
        },
    },
    examples=(
        Example("CogVideoX", "THUDM/CogVideoX-5b", "CogVideoXPipeline", "cogvideox", "guidance_scale=6.0", output="frames"),
    ),
)
