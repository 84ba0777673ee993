"""Stable Audio 3."""

from .records import MIDDLE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack

FAMILY = Family(
    "Stable Audio 3",
    networks=(
        Backbone(  # learned tokens stand before those of the sound, where others have a text
            "StableAudio3DiTModel",
            stacks=(Stack("transformer_blocks", "self_attn", *SINGLE, ("text", "image"), linear=True,
                          mapless="is the difference of two, each with a map of its own"),),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "global_hidden_states", "encoder_attention_mask",
                     "local_add_cond"),
            condition=("encoder_hidden_states",), time_modules=("to_timestep_embed",), sound=True, channel_dim=2,
            channels="io_channels",
        ),
    ),
    pipelines=(
        Host("StableAudio3Pipeline", "neg-pos", sized=False),
        Host("StableAudio3AudioToAudioPipeline", "neg-pos", scale=None, negative_prompt=None, sized=False),
        Host("StableAudio3InpaintPipeline", "neg-pos", scale=None, negative_prompt=None, sized=False),
    ),
    defaults={
        "StableAudio3DiTModel": {
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW},
                            "none works: the map is the difference of two"),
            "cfg": Default({"scale": 7.0}, "untested default; distilled models are made for 1"),
        },
    },
    examples=(
        Example("Stable Audio 3", "stabilityai/stable-audio-3-medium", "StableAudio3Pipeline", "stable-audio-3",
                "duration=10.0", prompt='"rain on a tin roof"', rule="emag.SLG(1.5)", output="audios",
                note="EMAG and PAG need one map, and its attention is the difference of two; SLG skips a block"),
    ),
)
