"""Z-Image."""

from typing import Any

from .encode import Tensors
from .records import EARLY, SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

WINDOW = "leave it out, and name a combining rule with a window instead, e.g. cfg=interval:4:low=0.1:high=0.9:unit=progress"
Z_ONLY = (("cfg_truncation", (1, 1.0), f"steps without unconditional rows are not served; {WINDOW}"),)
Z_COMBINED = (("cfg_normalization", (0, 1), "it would shrink our result; say False or True, which both leave it as it is"),)
_EMAG = Default({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth")


def encode(pipe: Any, texts: list[str]) -> Tensors:
    """A list with one text for each row."""
    return {"cap_feats": pipe.encode_prompt(list(texts), do_classifier_free_guidance=False)[0]}


FAMILY = Family(
    "Z-Image",
    networks=(
        Backbone(
            "ZImageTransformer2DModel",
            stacks=(Stack("layers", "attention", ("x",), ("x",), ("image", "text")),),
            per_row=("x", "t", "cap_feats", "controlnet_block_samples"), sample="x", text="cap_feats", timestep="t",
            kwargs="joint_attention_kwargs",
            time_scale=-1000.0, time_offset=1000.0, time_modules=("t_embedder",), negated=True, lists=("x", "cap_feats"),
            encode=encode, usual_text=128,
        ),
    ),
    pipelines=(
        Host("ZImagePipeline", "pos-neg", off=0.0, only=Z_ONLY, combined=Z_COMBINED),
        Host("ZImageImg2ImgPipeline", "pos-neg", off=0.0, strength="strength", only=Z_ONLY, combined=Z_COMBINED),
        Host("ZImageInpaintPipeline", "pos-neg", off=0.0, strength="strength", only=Z_ONLY, combined=Z_COMBINED),
        Host("ZImageControlNetPipeline", "pos-neg", off=0.0, only=Z_ONLY, combined=Z_COMBINED),
        Host("ZImageControlNetInpaintPipeline", "pos-neg", off=0.0, only=Z_ONLY, combined=Z_COMBINED),
    ),
    defaults={
        "ZImageTransformer2DModel": {
            "emag": _EMAG, "cfg": Default({"scale": 6.0}, "diffusers ZImagePipeline: cond + 5 (cond - uncond)"),
        },
    },
    examples=(
        Example("Z-Image Turbo", "Tongyi-MAI/Z-Image-Turbo", "ZImagePipeline", "z-image",
                "num_inference_steps=9, guidance_scale=0.0", note="distilled: EMAG pushes on the one prediction there is"),
    ),
)
