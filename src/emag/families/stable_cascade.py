"""Stable Cascade: its decoder, whose attention has the keys of the text behind those of the image.

Blocks on the way up may run several times in one evaluation, so those on the way down alone are blocks here.
"""

from dataclasses import replace
from typing import Any

from .encode import Tensors
from .records import SD3_WINDOW, Backbone, Default, Example, Family, Host, Stack

PLAIN = Host("StableCascadeDecoderPipeline", "pos-neg", denoiser="decoder", sized=False)


def encode(pipe: Any, texts: list[str]) -> Tensors:
    pipe = getattr(pipe, "decoder_pipe", pipe)
    _, pooled, _, _ = pipe.encode_prompt(prompt=texts, device=pipe._execution_device, batch_size=len(texts),
                                         num_images_per_prompt=1, do_classifier_free_guidance=False)
    return {"clip_text_pooled": pooled}


FAMILY = Family(
    "Stable Cascade",
    networks=(
        Backbone(
            "StableCascadeUNet",
            stacks=(Stack("down_blocks.*", "attention", ("x",), ("x",), ("image",), keys=("image", "text"), spatial=True,
                          marked="kv_mapper"),),
            per_row=("sample", "timestep_ratio", "clip_text_pooled", "clip_text", "clip_img", "effnet", "pixels", "sca",
                     "crp"),
            condition=("clip_text_pooled",), sample="sample", text=None, timestep="timestep_ratio", skips=True,
            unordered=True, encode=encode,
        ),
    ),
    pipelines=(PLAIN, replace(PLAIN, name="StableCascadeCombinedPipeline", scale="decoder_guidance_scale", sized=True)),
    defaults={
        "StableCascadeUNet": {
            "pag": Default({"scale": 4.0}, "untested default: the middle block, Stable Diffusion's s 3"),
            "seg": Default({"scale": 4.0, "sigma": 1e7}, "untested default: the middle block, SDXL's s 3"),
            "emag": Default({"scale": 1.5, "window": SD3_WINDOW}, "untested default: the middle block, SD3's window"),
            "cfg": Default({"scale": 1.1}, "by analogy with diffusers' example of the decoder, which has none"),
        },
    },
    examples=(
        Example("Stable Cascade", "stabilityai/stable-cascade", "StableCascadeCombinedPipeline", "cascade-combined",
                "decoder_guidance_scale=1.1"),
    ),
)
