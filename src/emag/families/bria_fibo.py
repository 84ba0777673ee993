"""Bria FIBO, FIBO Edit and FIBO 2."""

from .records import EARLY, JOINT, MERGED, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

_EMAG = Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth")
PICTURES = "its tokens stand behind those of the image, and its positions do not tell them apart"

FAMILY = Family(
    "Bria FIBO",
    networks=(
        Backbone(  # each block takes a layer of the text encoder, a list that no condition by text can give
            "BriaFiboTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn", *JOINT, ("text", "image")),
                    Stack("single_transformer_blocks", "attn", *MERGED, ("text", "image"))),
            per_row=("hidden_states", "encoder_hidden_states", "text_encoder_layers", "pooled_projections", "timestep",
                     "guidance"),
            condition=("encoder_hidden_states",), kwargs="joint_attention_kwargs", kwargs_rows=("attention_mask",),
            time_modules=("time_embed.timestep_embedder",), grid_ids="img_ids", references=True, text_ids=(3, ()), patch=1,
            latent_pixels=16,
        ),
        Backbone(  # texts of unequal lengths in one call would put the image before them
            "BriaFibo2Transformer2DModel",
            stacks=(Stack("layers", "attention", ("x",), ("x",), ("text", "image")),),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "context_latents"),
            condition=("encoder_hidden_states",), text_dim=2, time_scale=1000.0, time_modules=("t_embedder",),
            unserved=(("context_latents", PICTURES),
                      ("encoder_attention_mask", "where prompts of one call differ in length, it puts the image before the "
                                                 "text; make one prompt a call, num_images_per_prompt images of it")),
        ),
    ),
    pipelines=(
        Host("BriaFiboPipeline", "neg-pos"),
        Host("BriaFiboEditPipeline", "neg-pos"),
        Host("BriaFibo2Pipeline", "calls-untagged", refused=(("image", PICTURES),)),
    ),
    defaults={
        "BriaFiboTransformer2DModel": {"emag": _EMAG, "cfg": Default({"scale": 5.0}, "diffusers BriaFiboPipeline")},
        "BriaFibo2Transformer2DModel": {"emag": _EMAG, "cfg": Default({"scale": 5.0}, "diffusers BriaFibo2Pipeline")},
    },
    examples=(
        Example("FIBO", "briaai/FIBO", "BriaFiboPipeline", "fibo", "guidance_scale=5.0",
                note="its prompts are structured captions, JSON"),
        Example("FIBO 2", "briaai/Fibo-2.0-dev", "BriaFibo2Pipeline", "fibo-2", "guidance_scale=5.0",
                note="prompts of unlike lengths one a call"),
    ),
)
