"""LTX-Video."""



from .encode import states_and_mask
from .records import CROSS, MIDDLE, RESCALE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack

FAMILY = Family(
    "LTX-Video",
    networks=(
        Backbone(
            "LTXVideoTransformer3DModel",
            stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("image",), "attn2"),),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask", "video_coords"),
            condition=("encoder_hidden_states",),
            kwargs="attention_kwargs", time_modules=("time_embed.emb.timestep_embedder",),
            grid_sizes=("num_frames", "height", "width"), grid_coords="video_coords", patch=1,
            encode=states_and_mask, usual_video=(161, 512, 704), token_extent=(8, 32),
        ),
    ),
    pipelines=(
        Host("LTXPipeline", "neg-pos", rescales=RESCALE),
        Host("LTXImageToVideoPipeline", "neg-pos", rescales=RESCALE),
        Host("LTXConditionPipeline", "neg-pos", rescales=RESCALE, strength="denoise_strength"),
    ),
    defaults={
        "LTXVideoTransformer3DModel": {
            "stg": Default({"scale": 2.0, "layers": (19 / 28,)}, "the authors' s 1, block 19 of 28"),
            **CROSS,
            "nag": Default({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75, "cross": True}, "untested default: Flux's"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
            "cfg": Default({"scale": 3.0}, "diffusers LTXPipeline"),
        },
    },
    examples=(
        Example("LTX-Video", "Lightricks/LTX-Video", "LTXPipeline", "ltx", "guidance_scale=3.0", output="frames"),
    ),
)
