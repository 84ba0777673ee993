"""Lumina-Image 2.0."""



from .encode import states_and_mask
from .records import EARLY, MERGED, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

WINDOW = "leave it out, and name a combining rule with a window instead, e.g. cfg=interval:4:low=0.1:high=0.9:unit=progress"
_EMAG = Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth")

FAMILY = Family(
    "Lumina-Image 2.0",
    networks=(
        Backbone(
            "Lumina2Transformer2DModel",
            stacks=(Stack("layers", "attn", *MERGED, ("text", "image")),),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
            condition=("encoder_hidden_states",), kwargs="attention_kwargs",
            time_scale=-1000.0, time_offset=1000.0, time_modules=("time_caption_embed.timestep_embedder",),
            negated=True, packed="encoder_attention_mask",
            encode=states_and_mask, usual_text=256,
        ),
    ),
    pipelines=(
        Host("Lumina2Pipeline", "calls-untagged", rescales=(("cfg_normalization", False),),
             only=(("cfg_trunc_ratio", (1, 1.0), f"steps without the unconditional call are not served; {WINDOW}"),)),
    ),
    defaults={
        "Lumina2Transformer2DModel": {
            "emag": _EMAG,
            "cfg": Default({"scale": 4.0},
                           "diffusers Lumina2Pipeline, which rescales to the conditional norm and we do not"),
        },
    },
    examples=(
        Example("Lumina-Image 2.0", "Alpha-VLLM/Lumina-Image-2.0", "Lumina2Pipeline", "lumina2", "guidance_scale=4.0"),
    ),
)
