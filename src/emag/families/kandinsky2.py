"""Kandinsky 2.1 and 2.2, and unCLIP: a decoder of CLIP's picture embeddings, behind a prior that predicts them.

Their U-Nets have attention modules as blocks, whose keys are those of the text and the picture beside the image's. The class
is `UNet2DConditionModel`, whose entry is in `stable_diffusion.py`. Guided is the decoder; what the prior does is its own.
"""

from dataclasses import replace

from .records import Family, Host

PLAIN = Host("KandinskyPipeline", "neg-pos", denoiser="unet")
LATE = replace(PLAIN, strength="strength", floored=True)
# prompts are embeddings of pictures here
PICTURED = replace(PLAIN, prompt="image_embeds", negative_prompt="negative_image_embeds")
UNCLIP = replace(PLAIN, denoiser="decoder", scheduler="decoder_scheduler", count="decoder_num_inference_steps",
                 scale="decoder_guidance_scale", negative_prompt=None, sized=False)

FAMILY = Family(
    "Kandinsky 2.1 and 2.2, unCLIP: decoders of picture embeddings",
    pipelines=(
        PLAIN,
        replace(LATE, name="KandinskyImg2ImgPipeline"),
        replace(PLAIN, name="KandinskyInpaintPipeline"),
        replace(PLAIN, name="KandinskyCombinedPipeline"),
        replace(LATE, name="KandinskyImg2ImgCombinedPipeline"),
        replace(PLAIN, name="KandinskyInpaintCombinedPipeline"),
        replace(PICTURED, name="KandinskyV22Pipeline"),
        replace(PICTURED, name="KandinskyV22Img2ImgPipeline", strength="strength", floored=True),
        replace(PICTURED, name="KandinskyV22InpaintPipeline"),
        replace(PICTURED, name="KandinskyV22ControlnetPipeline"),
        replace(PICTURED, name="KandinskyV22ControlnetImg2ImgPipeline", strength="strength", floored=True),
        replace(PLAIN, name="KandinskyV22CombinedPipeline"),
        replace(LATE, name="KandinskyV22Img2ImgCombinedPipeline"),
        replace(PLAIN, name="KandinskyV22InpaintCombinedPipeline"),
        replace(UNCLIP, name="UnCLIPPipeline", scales=("prior_guidance_scale",)),
        replace(UNCLIP, name="UnCLIPImageVariationPipeline", prompt="image"),
        replace(PLAIN, name="StableUnCLIPPipeline"),
    ),
)
