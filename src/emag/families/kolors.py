"""Kolors: SDXL's U-Net on the text states of a language model. diffusers asks for the package sentencepiece.

The class is `UNet2DConditionModel`, whose entry is in `stable_diffusion.py`.
"""

from dataclasses import replace

from .records import OWN_PAG, Example, Family, Host
from .stable_diffusion import END, PARTS

PLAIN = Host("KolorsPipeline", "neg-pos", denoiser="unet", distilled="time_cond_proj_dim", refused=END)

FAMILY = Family(
    "Kolors",
    pipelines=(
        PLAIN,
        replace(PLAIN, name="KolorsImg2ImgPipeline", strength="strength", floored=True, refused=PARTS),
        replace(PLAIN, name="KolorsPAGPipeline", own=OWN_PAG),
    ),
    examples=(
        Example("Kolors", "Kwai-Kolors/Kolors-diffusers", "KolorsPipeline", "kolors", "guidance_scale=5.0",
                note="pip install sentencepiece"),
    ),
)
