"""GLM-Image."""

from .records import DUAL, EARLY, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

PICTURE = "its keys and values are kept in a cache of the network's own, which further passes would not find"

FAMILY = Family(
    "GLM-Image",
    networks=(
        Backbone(  # a prompt's picture is sketched in tokens by a language model: no condition by text alone
            "GlmImageTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn1", *DUAL, ("text", "image")),),
            per_row=("hidden_states", "encoder_hidden_states", "prior_token_id", "prior_token_drop", "timestep",
                     "target_size", "crop_coords", "attention_mask"),
            condition=("encoder_hidden_states",), condition_modules=("prior_projector",), kwargs="attention_kwargs",
            time_offset=1.0, time_modules=("time_condition_embed.timestep_embedder",),
        ),
    ),
    pipelines=(Host("GlmImagePipeline", "calls-untagged", negative_prompt=None, refused=(("image", PICTURE),)),),
    defaults={
        "GlmImageTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 1.5}, "diffusers GlmImagePipeline"),
        },
    },
    examples=(Example("GLM-Image", "zai-org/GLM-Image", "GlmImagePipeline", "glm-image", "guidance_scale=1.5"),),
)
