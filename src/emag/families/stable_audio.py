"""Stable Audio Open."""

from .records import CROSS, MIDDLE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack

FAMILY = Family(
    "Stable Audio Open",
    networks=(
        Backbone(  # a token of the time and the duration stands before those of the sound, where others have a text
            "StableAudioDiTModel",
            stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("text", "image"), "attn2"),),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "global_hidden_states", "attention_mask",
                     "encoder_attention_mask"),
            condition=("encoder_hidden_states",), time_modules=("timestep_proj",), sound=True, channel_dim=2,
        ),
    ),
    pipelines=(Host("StableAudioPipeline", "neg-pos", sized=False, path="preconditioned"),),
    defaults={
        "StableAudioDiTModel": {
            **CROSS,
            "nag": Default({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75, "cross": True}, "untested default: Flux's"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW},
                            "untested default: DiT's blocks; EMAG's authors guide pictures, not sounds"),
            "cfg": Default({"scale": 7.0}, "diffusers StableAudioPipeline"),
        },
    },
    examples=(
        Example("Stable Audio Open", "stabilityai/stable-audio-open-1.0", "StableAudioPipeline", "stable-audio",
                "guidance_scale=7.0", prompt='"rain on a tin roof"', output="audios"),
    ),
)
