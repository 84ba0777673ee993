"""DeepFloyd IF: cascades of U-Nets in pixels, whose blocks are attention modules that see the text beside the image.

The class is `UNet2DConditionModel`, whose entry is in `stable_diffusion.py`.
"""

from dataclasses import replace

from .records import Family, Host

PLAIN = Host("IFPipeline", "neg-pos", denoiser="unet")
LATE = replace(PLAIN, strength="strength", floored=True, sized=False)

FAMILY = Family(
    "DeepFloyd IF: cascades in pixels",
    pipelines=(
        PLAIN,
        replace(LATE, name="IFImg2ImgPipeline"),
        replace(LATE, name="IFInpaintingPipeline"),
        replace(PLAIN, name="IFSuperResolutionPipeline"),
        replace(LATE, name="IFImg2ImgSuperResolutionPipeline"),
        replace(LATE, name="IFInpaintingSuperResolutionPipeline"),
    ),
)
