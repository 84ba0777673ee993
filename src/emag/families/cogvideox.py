"""CogVideoX, and ConsisID, which is CogVideoX with a face."""

from .encode import text_states
from .records import DUAL, EARLY, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

BLOCKS = Stack("transformer_blocks", "attn1", *DUAL, ("text", "image"))

FAMILY = Family(
    "CogVideoX, ConsisID",
    networks=(
        Backbone(
            "CogVideoXTransformer3DModel",
            stacks=(BLOCKS,),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "timestep_cond", "ofs"),
            condition=("encoder_hidden_states",),
            kwargs="attention_kwargs", time_modules=("time_embedding",), channel_dim=2,
            placed="use_rotary_positional_embeddings",
            encode=text_states, usual_text=226, usual_video=(49, 480, 720), token_extent=(4, 16),
        ),
        Backbone(  # what it sees of the face goes in between the blocks, in every pass
            "ConsisIDTransformer3DModel",
            stacks=(BLOCKS,),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "timestep_cond", "id_cond", "id_vit_hidden"),
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
        Host("ConsisIDPipeline", "neg-pos"),
    ),
    defaults={
        "CogVideoXTransformer3DModel": {
            "stg": Default({"scale": 2.0, "layers": (11 / 42,)}, "the authors' s 1, block 11; of 42 (5B) is unconfirmed"),
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 6.0}, "diffusers CogVideoXPipeline"),
        },
        "ConsisIDTransformer3DModel": {
            "stg": Default({"scale": 2.0, "layers": (11 / 42,)}, "untested default: CogVideoX's"),
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 6.0}, "diffusers ConsisIDPipeline"),
        },
    },
    examples=(
        Example("CogVideoX", "THUDM/CogVideoX-5b", "CogVideoXPipeline", "cogvideox", "guidance_scale=6.0", output="frames"),
        Example("ConsisID", "BestWishYsh/ConsisID-preview", "ConsisIDPipeline", "consisid",
                "id_cond=face, id_vit_hidden=features, guidance_scale=6.0", 'photo, prompt="a dancer"', output="frames",
                note="`photo` is a PIL image; its pipeline needs OpenCV, and what finds `face` and its `features` "
                     "(diffusers.pipelines.consisid.consisid_utils) insightface, facexlib and consisid_eva_clip"),
    ),
)
