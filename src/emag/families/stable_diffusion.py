"""Stable Diffusion 1 and 2, SDXL, latent consistency models: U-Nets with transformer blocks.

Their network class is that of Kandinsky 2, DeepFloyd IF and unCLIP as well, where blocks are attention modules alone.
"""

from dataclasses import replace
from typing import Any

from ..errors import Unsupported
from .encode import Tensors
from .records import OWN_PAG, RESCALE, SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack

# with a guidance embedding (latent consistency) there is no CFG
PLAIN = Host("StableDiffusionPipeline", "neg-pos", denoiser="unet", distilled="time_cond_proj_dim")
LATE = replace(PLAIN, strength="strength", floored=True)
# InstructPix2Pix: a picture beside x_t, in rows with and without the text, and rows without either
EDITS = replace(PLAIN, layout="pos-between-neg", distilled=None, at_least=(("image_guidance_scale", 1.0),))
# diffusers' own PAG evaluates one part of a batch more; ours takes its place
PAG = replace(PLAIN, own=OWN_PAG)
LATE_PAG = replace(LATE, own=OWN_PAG)
PART = "the part of the steps that this pipeline makes is not the one its scheduler plans"
END = (("denoising_end", PART),)
PARTS = (("denoising_start", PART), *END)


def encode(pipe: Any, texts: list[str]) -> Tensors:
    """One text encoder, or two and what the second one pools."""
    if not hasattr(pipe, "encode_prompt"):
        raise Unsupported(f"{type(pipe).__name__} encodes its prompt together with embeddings of a picture: give conditions "
                          "as tensors")
    found = pipe.encode_prompt(texts, device=pipe._execution_device, num_images_per_prompt=1,
                               do_classifier_free_guidance=False)
    return {"encoder_hidden_states": found[0], **({"added_cond_kwargs.text_embeds": found[2]} if len(found) > 2 else {})}


# an attention module that sees the text beside the image, as OpenAI's ADM has it
ADDED = replace(Stack("down_blocks.*.attentions", "", *SINGLE, ("image",), keys=("text", "image")), spatial=True,
                marked="add_k_proj")

FAMILY = Family(
    "Stable Diffusion 1 and 2, SDXL, latent consistency models: U-Nets with transformer blocks",
    networks=(
        Backbone(
            "UNet2DConditionModel",
            stacks=(Stack("down_blocks.*.attentions.*.transformer_blocks", "attn1", *SINGLE, ("image",), "attn2"), ADDED,
                    Stack("mid_block.attentions.*.transformer_blocks", "attn1", *SINGLE, ("image",), "attn2", middle=True),
                    replace(ADDED, name="mid_block.attentions", middle=True),
                    Stack("up_blocks.*.attentions.*.transformer_blocks", "attn1", *SINGLE, ("image",), "attn2"),
                    replace(ADDED, name="up_blocks.*.attentions")),
            variance="SimpleCrossAttn*",
            per_row=("sample", "timestep", "encoder_hidden_states", "class_labels", "timestep_cond", "attention_mask",
                     "added_cond_kwargs", "down_block_additional_residuals", "mid_block_additional_residual",
                     "down_intrablock_additional_residuals", "encoder_attention_mask"),
            condition=("encoder_hidden_states", "added_cond_kwargs.text_embeds", "added_cond_kwargs.image_embeds"),
            kwargs="cross_attention_kwargs", kwargs_rows=("gligen",), sample="sample", time_modules=("time_embedding",),
            skips=True, unordered=True, image_prompt="added_cond_kwargs.image_embeds",
            encode=encode,
        ),
    ),
    pipelines=(
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
        replace(LATE, name="LatentConsistencyModelImg2ImgPipeline", scale=None, distilled=None, negative_prompt=None,
                sized=False),
        replace(LATE, name="StableDiffusionDepth2ImgPipeline", distilled=None, sized=False),
        replace(PLAIN, name="StableDiffusionImageVariationPipeline", distilled=None, prompt="image", negative_prompt=None),
        replace(PLAIN, name="StableUnCLIPImg2ImgPipeline", distilled=None),
        replace(PLAIN, name="StableDiffusionXLControlNetUnionPipeline", refused=END),
        replace(LATE, name="StableDiffusionXLControlNetUnionImg2ImgPipeline", distilled=None),
        replace(LATE, name="StableDiffusionXLControlNetUnionInpaintPipeline", distilled=None, refused=PARTS,
                rescales=RESCALE),
        replace(EDITS, name="StableDiffusionInstructPix2PixPipeline", sized=False),
        replace(EDITS, name="StableDiffusionXLInstructPix2PixPipeline", refused=END, rescales=RESCALE),
        replace(PAG, name="StableDiffusionPAGPipeline", rescales=RESCALE),
        replace(PAG, name="StableDiffusionControlNetPAGPipeline"),
        replace(LATE_PAG, name="StableDiffusionPAGImg2ImgPipeline", sized=False),
        replace(LATE_PAG, name="StableDiffusionPAGInpaintPipeline", rescales=RESCALE),
        replace(LATE_PAG, name="StableDiffusionControlNetPAGInpaintPipeline", distilled=None),
        replace(PAG, name="StableDiffusionXLPAGPipeline", refused=END, rescales=RESCALE),
        replace(PAG, name="StableDiffusionXLControlNetPAGPipeline", refused=END),
        replace(LATE_PAG, name="StableDiffusionXLPAGImg2ImgPipeline", sized=False, refused=PARTS, rescales=RESCALE),
        replace(LATE_PAG, name="StableDiffusionXLPAGInpaintPipeline", refused=PARTS, rescales=RESCALE),
        replace(LATE_PAG, name="StableDiffusionXLControlNetPAGImg2ImgPipeline", distilled=None),
    ),
    defaults={
        "UNet2DConditionModel": {
            "pag": Default({"scale": 4.0}, "the authors' s 3 on Stable Diffusion 1.5 and SDXL, the middle of the U-Net"),
            "seg": Default({"scale": 4.0, "sigma": 1e7}, "the authors' SDXL example: s 3, the mean query, the middle"),
            "tpg": Default({"scale": 4.0, "layers": tuple(at / 70 for at in range(6, 24))},
                           "the authors' SDXL: s 3, blocks d6 to d23, the deep end of the way down"),
            "sag": Default({"scale": 1.75, "kernel": 9}, "diffusers on Stable Diffusion: s 0.75, the middle of the U-Net"),
            "nag": Default({"scale": 5.0, "alpha": 0.38, "sigma_end": 0.97, "cross": True},
                           "the authors' ComfyUI workflow for SD1.5; sigma_end 4 of k-diffusion"),
            "vsf": Default({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
            "pladis": Default({"cross": True}, "published for cross-attention, on Stable Diffusion and SDXL"),
            "gag": Default({"cross": True}, "published for cross-attention, as PLADIS"),
            "o-nag": Default({"cross": True}, "untested default: as NAG"),
            "nasa": Default({"strength": 0.1, "cross": True}, "the authors' Stable Diffusion 1.5; 0.2 on 2.1"),
            "emag": Default({"scale": 1.5, "window": SD3_WINDOW}, "untested default: the middle of the U-Net, SD3's window"),
            "apg": Default({"scale": 10.0, "norm_threshold": 7.5, "momentum": -0.75},
                           "the paper's for Stable Diffusion 2.1, as quoted; for SDXL 15, 15 and -0.5"),
            "s-cfg": Default({"scale": 7.5, "cross": True, "layers": tuple(at / 16 for at in range(4, 10))},
                             "the authors' Stable Diffusion scripts; blocks of 16x16 and 8x8 tokens in 1.5"),
            "cfg": Default({"scale": 7.5}, "diffusers StableDiffusionPipeline; SDXL's is 5"),
        },
    },
    examples=(
        Example("Stable Diffusion 1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5", "StableDiffusionPipeline", "sd",
                "guidance_scale=7.5"),
        Example("Stable Diffusion XL", "stabilityai/stable-diffusion-xl-base-1.0", "StableDiffusionXLPipeline", "sdxl",
                "guidance_scale=5.0"),
    ),
)
