"""Kandinsky 3: a U-Net whose self-attention is a block of its own, with a feed-forward behind it."""

from dataclasses import replace
from typing import Any

from .encode import Tensors
from .records import SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

# of each list the first is the self-attention; those to the text lie between these
BLOCK = Stack("down_blocks.*.attentions.0", "attention", ("x",), ("x",), ("image",), spatial=True, marked="attention",
              to_itself=True)
# it combines (s + 1) cond - s uncond, and evaluates uncond where s is above 1
PLAIN = Host("Kandinsky3Pipeline", "neg-pos", off=0.0, above=1.0, denoiser="unet")


def encode(pipe: Any, texts: list[str]) -> Tensors:
    states, _, mask, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False, device=pipe._execution_device)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


FAMILY = Family(
    "Kandinsky 3",
    networks=(
        Backbone(
            "Kandinsky3UNet",
            stacks=(BLOCK, replace(BLOCK, name="up_blocks.*.attentions.0")),
            per_row=("sample", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
            condition=("encoder_hidden_states",), sample="sample", channels="in_channels", time_modules=("time_embedding",),
            skips=True, unordered=True, encode=encode,
        ),
    ),
    pipelines=(PLAIN, replace(PLAIN, name="Kandinsky3Img2ImgPipeline", strength="strength", floored=True, sized=False)),
    defaults={
        "Kandinsky3UNet": {
            "pag": Default({"scale": 4.0}, "untested default: the middle block, Stable Diffusion's s 3"),
            "seg": Default({"scale": 4.0, "sigma": 1e7}, "untested default: the middle block, SDXL's s 3"),
            "emag": Default({"scale": 1.5, "window": SD3_WINDOW}, "untested default: the middle block, SD3's window"),
            "cfg": Default({"scale": 4.0}, "diffusers Kandinsky3Pipeline, whose 3 means 4 here"),
        },
    },
    examples=(
        Example("Kandinsky 3", "kandinsky-community/kandinsky-3", "Kandinsky3Pipeline", "kandinsky3", "guidance_scale=3.0"),
    ),
)
