"""Pipelines around a U-Net: Stable Diffusion 1 and 2, SDXL, with ControlNets and adapters, and latent consistency models."""

from dataclasses import replace

from .entry import RESCALE, Host

PART = "the part of the steps that this pipeline makes is not the one its scheduler plans"
END = (("denoising_end", PART),)
PARTS = (("denoising_start", PART), *END)
# with a guidance embedding (latent consistency) there is no CFG
PLAIN = Host("StableDiffusionPipeline", "neg-pos", denoiser="unet", distilled="time_cond_proj_dim")
LATE = replace(PLAIN, strength="strength", floored=True)

ENTRIES: tuple[Host, ...] = (
    replace(PLAIN, rescales=RESCALE),
    replace(PLAIN, name="StableDiffusionControlNetPipeline"),
    replace(PLAIN, name="StableDiffusionAdapterPipeline"),
    replace(PLAIN, name="StableDiffusionUpscalePipeline", distilled=None, sized=False),
    replace(LATE, name="StableDiffusionImg2ImgPipeline", sized=False),
    replace(LATE, name="StableDiffusionInpaintPipeline"),
    replace(LATE, name="StableDiffusionControlNetImg2ImgPipeline", distilled=None),
    replace(LATE, name="StableDiffusionControlNetInpaintPipeline", distilled=None),
    replace(PLAIN, name="StableDiffusionXLPipeline", refused=END, rescales=RESCALE),
    replace(PLAIN, name="StableDiffusionXLControlNetPipeline", refused=END),
    replace(PLAIN, name="StableDiffusionXLAdapterPipeline", refused=END, rescales=RESCALE),
    replace(LATE, name="StableDiffusionXLImg2ImgPipeline", sized=False, refused=PARTS, rescales=RESCALE),
    replace(LATE, name="StableDiffusionXLInpaintPipeline", refused=PARTS, rescales=RESCALE),
    replace(LATE, name="StableDiffusionXLControlNetImg2ImgPipeline", distilled=None),
    replace(LATE, name="StableDiffusionXLControlNetInpaintPipeline", distilled=None, refused=PARTS, rescales=RESCALE),
    replace(PLAIN, name="LatentConsistencyModelPipeline", scale=None, distilled=None, negative_prompt=None),
)
