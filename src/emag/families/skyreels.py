"""SkyReels V2 and ChronoEdit: networks like that of Wan 2.1."""

from .records import Backbone, Default, Example, Family, Host
from .wan import LIKE_WAN, WAN, encode

_SHORTENED = "the frames between the first and the last are thrown away within the run, which is planned as one of one size"


def _network(name: str, usual: tuple[int, int, int]) -> Backbone:
    return Backbone(
        name, stacks=(WAN,),
        per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"),
        condition=("encoder_hidden_states",), kwargs="attention_kwargs", time_modules=("condition_embedder.time_embedder",),
        encode=encode, usual_video=usual, token_extent=(4, 16))


FAMILY = Family(
    "SkyReels V2 and ChronoEdit",
    networks=(
        _network("SkyReelsV2Transformer3DModel", (97, 544, 960)),
        _network("ChronoEditTransformer3DModel", (5, 480, 832)),
    ),
    pipelines=(
        Host("SkyReelsV2Pipeline", "calls"),
        Host("SkyReelsV2ImageToVideoPipeline", "calls"),
        Host("ChronoEditPipeline", "calls-untagged", refused=(("enable_temporal_reasoning", _SHORTENED),)),
    ),
    defaults={
        "SkyReelsV2Transformer3DModel": {**LIKE_WAN, "cfg": Default({"scale": 6.0}, "diffusers SkyReelsV2Pipeline")},
        "ChronoEditTransformer3DModel": {**LIKE_WAN, "cfg": Default({"scale": 5.0}, "diffusers ChronoEditPipeline")},
    },
    examples=(
        Example("SkyReels V2", "Skywork/SkyReels-V2-T2V-14B-540P-Diffusers", "SkyReelsV2Pipeline", "skyreels",
                "guidance_scale=6.0", output="frames"),
        Example("ChronoEdit", "nvidia/ChronoEdit-14B-Diffusers", "ChronoEditPipeline", "chronoedit", "guidance_scale=5.0",
                prompt='photo, "make it night"', output="frames", note="`photo` is a PIL image; without temporal reasoning"),
    ),
)
