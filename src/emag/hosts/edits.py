"""Pipelines that start from an image: image to image, inpainting, control, editing."""

from .entry import FLUX_NEGATIVE, RESCALE, Host

CACHED = (("image", "the keys of reference images are kept from the first step on, and weak passes would not see them"),)
QWEN_NEGATIVE = (("negative_prompt",), ("negative_prompt_embeds",))

ENTRIES: tuple[Host, ...] = (
    Host("StableDiffusion3Img2ImgPipeline", "neg-pos", strength="strength"),
    Host("StableDiffusion3InpaintPipeline", "neg-pos", strength="strength"),
    Host("StableDiffusion3ControlNetPipeline", "neg-pos"),
    Host("StableDiffusion3ControlNetInpaintingPipeline", "neg-pos"),
    Host("FluxImg2ImgPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE, strength="strength"),
    Host("FluxInpaintPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE, strength="strength"),
    Host("FluxControlNetPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE),
    Host("FluxControlNetImg2ImgPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
    Host("FluxControlNetInpaintPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
    Host("FluxFillPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
    Host("FluxControlPipeline", "calls", scale=None, negative_prompt=None),
    Host("FluxControlImg2ImgPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
    Host("FluxControlInpaintPipeline", "calls", scale=None, negative_prompt=None, strength="strength"),
    Host("FluxKontextPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE),
    Host("FluxKontextInpaintPipeline", "calls-untagged", scale="true_cfg_scale", negative=FLUX_NEGATIVE,
         strength="strength"),
    Host("Flux2KleinInpaintPipeline", "calls", negative_prompt=None, distilled="is_distilled", strength="strength"),
    Host("Flux2KleinKVPipeline", "calls", scale=None, negative_prompt=None, refused=CACHED),
    Host("QwenImageImg2ImgPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, strength="strength"),
    Host("QwenImageInpaintPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, strength="strength"),
    Host("QwenImageControlNetPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE),
    Host("QwenImageControlNetInpaintPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE),
    Host("QwenImageEditPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, pictured=True),
    Host("QwenImageEditPlusPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, pictured=True),
    Host("QwenImageEditInpaintPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, strength="strength",
         sized=False, pictured=True),
    Host("QwenImageLayeredPipeline", "calls", scale="true_cfg_scale", negative=QWEN_NEGATIVE, sized=False,
         rescales=(("cfg_normalize", False),)),
    Host("ChromaImg2ImgPipeline", "calls-untagged", strength="strength"),
    Host("ChromaInpaintPipeline", "calls-untagged", strength="strength"),
    Host("CogView4ControlPipeline", "calls-untagged"),
    Host("HunyuanDiTControlNetPipeline", "neg-pos", rescales=RESCALE),
    Host("SanaControlNetPipeline", "neg-pos"),
)
