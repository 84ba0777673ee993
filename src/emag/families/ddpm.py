"""DDPM and its like: U-Nets without a prompt, whose blocks are self-attention modules alone."""

from dataclasses import replace

from .records import SD3_WINDOW, SINGLE, Backbone, Default, Example, Family, Host, Stack

# nothing is asked for: no unconditional rows, and no prompt
PLAIN = Host("DDPMPipeline", "neg-pos", scale=None, prompt="batch_size", negative_prompt=None, sized=False, denoiser="unet")
BLOCK = Stack("down_blocks.*.attentions", "", *SINGLE, ("image",), spatial=True, marked="to_q")

FAMILY = Family(
    "DDPM, DDIM, PNDM, latent diffusion",
    networks=(
        Backbone(
            "UNet2DModel",
            stacks=(BLOCK, replace(BLOCK, name="mid_block.attentions", middle=True),
                    replace(BLOCK, name="up_blocks.*.attentions")),
            per_row=("sample", "timestep", "class_labels"),
            sample="sample", text=None, time_modules=("time_embedding",), skips=True, unordered=True, latent_pixels=1,
        ),
    ),
    pipelines=(
        PLAIN,
        replace(PLAIN, name="DDIMPipeline"),
        replace(PLAIN, name="PNDMPipeline"),
        replace(PLAIN, name="LDMPipeline"),
        replace(PLAIN, name="LDMSuperResolutionPipeline", prompt="image"),
        Host("LDMTextToImagePipeline", "neg-pos", differs=True, negative_prompt=None, denoiser="unet"),
    ),
    defaults={
        "UNet2DModel": {
            "pag": Default({"scale": 3.0}, "untested default: Stable Diffusion's layers, the middle of the U-Net"),
            "seg": Default({"scale": 3.0, "sigma": 1e7}, "untested default: Stable Diffusion's"),
            "sag": Default({"scale": 1.1, "kernel": 9}, "untested default: the middle of the U-Net, a small push"),
            "emag": Default({"scale": 1.5, "window": SD3_WINDOW}, "untested default: the middle of the U-Net, SD3's window"),
        },
    },
    examples=(
        Example("DDPM of faces", "google/ddpm-celebahq-256", "DDPMPipeline", "ddpm", prompt="batch_size=1",
                note="It makes a face, whatever is asked for."),
    ),
)
