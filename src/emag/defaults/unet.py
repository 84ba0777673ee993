"""Defaults of U-Nets. Where no layers are named, rules take the blocks at the bottom."""

from .entry import SD3_WINDOW, Defaults, Entry

ENTRIES: Defaults = {
    "UNet2DConditionModel": {
        "pag": Entry({"scale": 4.0}, "the authors' s 3 on Stable Diffusion 1.5 and SDXL, the middle of the U-Net"),
        "seg": Entry({"scale": 4.0, "sigma": 1e7}, "the authors' SDXL example: s 3, the mean query, the middle"),
        "sag": Entry({"scale": 1.75, "kernel": 9}, "diffusers on Stable Diffusion: s 0.75, the middle of the U-Net"),
        "nag": Entry({"scale": 5.0, "alpha": 0.38, "sigma_end": 0.97, "cross": True},
                     "the authors' ComfyUI workflow for SD1.5; sigma_end 4 of k-diffusion"),
        "vsf": Entry({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
        "pladis": Entry({"cross": True}, "published for cross-attention, on Stable Diffusion and SDXL"),
        "emag": Entry({"scale": 1.5, "window": SD3_WINDOW}, "untested default: the middle of the U-Net, SD3's window"),
        "apg": Entry({"scale": 10.0, "norm_threshold": 7.5, "momentum": -0.75},
                     "the paper's for Stable Diffusion 2.1, as quoted; for SDXL 15, 15 and -0.5"),
        "cfg": Entry({"scale": 7.5}, "diffusers StableDiffusionPipeline; SDXL's is 5"),
    },
}
