"""HunyuanImage 2.1."""

from .hunyuan_video import encode_hunyuan_video_15 as encode
from .records import DUAL, EARLY, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

FAMILY = Family(
    "HunyuanImage 2.1",
    networks=(
        Backbone(
            "HunyuanImageTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn", *DUAL, ("image", "text")),
                    Stack("single_transformer_blocks", "attn", *DUAL, ("image", "text"))),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "timestep_r",
                     "encoder_hidden_states_2", "encoder_attention_mask_2", "guidance"),
            condition=("encoder_hidden_states", "encoder_hidden_states_2"), kwargs="attention_kwargs",
            time_modules=("time_guidance_embed.timestep_embedder", "context_embedder.time_text_embed.timestep_embedder"),
            encode=encode, usual_text=1128, latent_pixels=32,  # 1000 of the language model, 128 for letters
        ),
    ),
    pipelines=(Host("HunyuanImagePipeline", "calls", guider="guider", further_guider="ocr_guider"),
               Host("HunyuanImageRefinerPipeline", "calls", guider="guider")),
    defaults={
        "HunyuanImageTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
            "cfg": Default({"scale": 3.5}, "diffusers' guider of HunyuanImage 2.1, which is APG"),
        },
    },
    examples=(
        Example("HunyuanImage 2.1", "hunyuanvideo-community/HunyuanImage-2.1-Diffusers", "HunyuanImagePipeline",
                "hunyuan-image", note="give it a plain guider first: pipe.guider = diffusers.ClassifierFreeGuidance(3.5), "
                "pipe.ocr_guider = None"),
    ),
)
