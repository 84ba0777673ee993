"""LTX-2."""



from .records import CROSS, MIDDLE, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

SOUND = (("hidden_states", "audio_hidden_states"),) * 2
# spatio-temporal and modality guidance, each with a network call more
LTX2_OWN = (("stg_scale", 0.0), ("audio_stg_scale", 0.0), ("modality_scale", 1.0), ("audio_modality_scale", 1.0))
SILENT_OWN = (("stg_scale", 0.0), ("modality_scale", 1.0))

FAMILY = Family(
    "LTX-2",
    networks=(
        Backbone(
            "LTX2VideoTransformer3DModel",
            stacks=(Stack("transformer_blocks", "attn1", *SOUND, ("image",), "attn2"),),
            per_row=("hidden_states", "audio_hidden_states", "encoder_hidden_states", "audio_encoder_hidden_states",
                     "timestep",
                     "audio_timestep", "sigma", "audio_sigma", "encoder_attention_mask", "audio_encoder_attention_mask",
                     "video_coords", "audio_coords", "video_self_attention_mask", "video_keyframes_mask",
                     "perturbation_mask"),
            condition=("encoder_hidden_states", "audio_encoder_hidden_states"),
            kwargs="attention_kwargs",
            time_modules=("time_embed.emb.timestep_embedder", "audio_time_embed.emb.timestep_embedder"),
            grid_sizes=("num_frames", "height", "width"), patch=1, paired=True, references=True,
            usual_video=(121, 512, 768), token_extent=(8, 32),
        ),
    ),
    pipelines=(
        Host("LTX2Pipeline", "neg-pos", scales=("audio_guidance_scale",), own=LTX2_OWN),
        Host("LTX2ImageToVideoPipeline", "neg-pos", scales=("audio_guidance_scale",), own=LTX2_OWN),
        Host("LTX2ConditionPipeline", "neg-pos", scales=("audio_guidance_scale",), own=LTX2_OWN),
        Host("LTX2InContextPipeline", "neg-pos", scales=("audio_guidance_scale",), own=LTX2_OWN),
        Host("LTX2HDRPipeline", "neg-pos", own=SILENT_OWN),
    ),
    defaults={
        "LTX2VideoTransformer3DModel": {
            "stg": Default({"scale": 2.0, "layers": (28 / 48,)}, "diffusers LTX2Pipeline: s 1, block 28 of 48"),
            **CROSS,
            "nag": Default({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75, "cross": True}, "untested default: Flux's"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
            "cfg": Default({"scale": 3.0}, "diffusers LTX2Pipeline"),
        },
    },
    examples=(
        Example("LTX-2", "Lightricks/LTX-2", "LTX2Pipeline", "ltx-2",
                "stg_scale=0.0, audio_stg_scale=0.0, modality_scale=1.0, audio_modality_scale=1.0", output="frames",
                note="its own further branches switched off"),
    ),
)
