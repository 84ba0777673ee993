"""Latte: blocks in pairs, one that sees each frame by itself, one that sees each place over the frames."""

from typing import Any

from .encode import Tensors
from .records import CROSS, MIDDLE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False, device=pipe._execution_device)
    return {"encoder_hidden_states": states}


FAMILY = Family(
    "Latte",
    networks=(
        Backbone(
            "LatteTransformer3DModel",
            # the blocks that mix frames lie between these
            stacks=(Stack("transformer_blocks", "attn1", *SINGLE, ("image",), "attn2"),),
            per_row=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
            condition=("encoder_hidden_states",), time_modules=("adaln_single.emb.timestep_embedder",), unordered=True,
            framed=True, encode=encode, usual_video=(16, 512, 512), token_extent=(1, 16), placed=False,
        ),
    ),
    pipelines=(Host("LattePipeline", "neg-pos"),),
    defaults={
        "LatteTransformer3DModel": {
            **CROSS,
            "nag": Default({"scale": 5.0, "alpha": 0.38, "sigma_end": 0.97, "cross": True}, "untested default: PixArt's"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
            "emag": Default({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
            "cfg": Default({"scale": 7.5}, "diffusers LattePipeline"),
        },
    },
    examples=(
        Example("Latte", "maxin-cn/Latte-1", "LattePipeline", "latte", "guidance_scale=7.5",
                output="frames"),
    ),
)
