"""ACE-Step 1.5."""

from .records import CROSS, MIDDLE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack

WINDOW = "leave it out, and name a combining rule with a window instead, e.g. cfg=interval:7:low=0.1:high=0.9:unit=progress"
ALL = ((("cfg_interval_start", (0, 0.0), f"steps without unconditional rows are not served; {WINDOW}"),
        ("cfg_interval_end", (1, 1.0), f"steps without unconditional rows are not served; {WINDOW}")))

FAMILY = Family(
    "ACE-Step 1.5",
    networks=(
        Backbone(  # text, lyrics and timbre are packed by an encoder: no condition by text alone
            "AceStepTransformer1DModel",
            stacks=(Stack("layers", "self_attn", *SINGLE, ("image",), "cross_attn"),),
            per_row=("hidden_states", "timestep", "timestep_r", "encoder_hidden_states", "context_latents"),
            condition=("encoder_hidden_states",), kwargs="attention_kwargs", time_modules=("time_embed.linear_2",),
            sound=True, channels="audio_acoustic_hidden_dim",
        ),
    ),
    pipelines=(
        Host("AceStepPipeline", "pos-neg", distilled="is_turbo", negative_prompt=None, sized=False, only=ALL,
             refused=(("audio_codes", "its cover of a sound may call the network once more"),
                      ("src_audio", "its cover of a sound may call the network once more"))),
    ),
    defaults={
        "AceStepTransformer1DModel": {
            **CROSS,
            "nag": Default({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75, "cross": True}, "untested default: Flux's"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW},
                            "untested default: DiT's blocks; EMAG's authors guide pictures, not sounds"),
            "cfg": Default({"scale": 7.0}, "diffusers AceStepPipeline, which projects as APG does and we do not"),
        },
    },
    examples=(
        Example("ACE-Step 1.5", "ACE-Step/acestep-v15-xl-turbo-diffusers", "AceStepPipeline", "ace-step",
                "audio_duration=30.0, guidance_scale=7.0", prompt='"slow piano, rain"', output="audios",
                note="turbo models leave CFG out: EMAG pushes on the one prediction there is"),
    ),
)
