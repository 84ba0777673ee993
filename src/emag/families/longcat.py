"""LongCat-Image."""

from typing import Any

from .encode import Tensors
from .records import EARLY, JOINT, MIDDLE, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    # as they stand: the pipeline's own prompt may be rewritten by its text encoder first (enable_prompt_rewrite)
    states, ids = pipe.encode_prompt(texts)
    return {"encoder_hidden_states": states, "txt_ids": ids}


FAMILY = Family(
    "LongCat-Image",
    networks=(
        Backbone(
            "LongCatImageTransformer2DModel",
            stacks=(Stack("transformer_blocks", "attn", *JOINT, ("text", "image")),
                    Stack("single_transformer_blocks", "attn", *JOINT, ("text", "image"))),
            per_row=("hidden_states", "encoder_hidden_states", "timestep", "guidance"),
            condition=("encoder_hidden_states",),
            time_scale=1000.0, time_modules=("time_embed.timestep_embedder",),
            # (kind, row, column): the text counts in both of the latter, the picture to edit is of another kind
            grid_ids="img_ids", references=True, text_ids=(3, (1, 2)),
            encode=encode, usual_text=512,
        ),
    ),
    pipelines=(
        Host("LongCatImagePipeline", "calls", rescales=(("enable_cfg_renorm", False),)),
        Host("LongCatImageEditPipeline", "calls", sized=False, pictured=True),
    ),
    defaults={
        "LongCatImageTransformer2DModel": {
            "emag": Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW},
                            "by analogy with FLUX.1, whose blocks these are: SD3's relative depth, untested"),
            "cfg": Default({"scale": 4.5},
                           "diffusers LongCatImagePipeline, which rescales to the conditional norm and we do not"),
            "s-cfg": Default({"scale": 4.5, "layers": MIDDLE},
                             "by analogy with FLUX.1: the CFG scale, the middle blocks, untested"),
        },
    },
    examples=(
        Example("LongCat-Image", "meituan-longcat/LongCat-Image", "LongCatImagePipeline", "longcat", "guidance_scale=4.5",
                note="its text encoder rewrites the prompt; with enable_prompt_rewrite=False it stays as written"),
        Example("LongCat-Image-Edit", "meituan-longcat/LongCat-Image-Edit", "LongCatImageEditPipeline", "longcat-edit",
                "guidance_scale=4.5", prompt='photo, "make it night"', note="`photo` is a PIL image"),
    ),
)
