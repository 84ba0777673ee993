"""Defaults of image transformers with an attention of the image alone."""

from ..default import DIT_WINDOW, MIDDLE, SD3_WINDOW, Defaults, Entry

ENTRIES: Defaults = {
    "DiTTransformer2DModel": {
        "sag": Entry({"scale": 1.2, "layers": MIDDLE, "kernel": 31},
                     "blocks and kernel: EMAG's comparison; scale: ADM's s 0.2 on ImageNet 256, in pixels"),
        "pag": Entry({"scale": 4.0, "layers": MIDDLE}, "blocks: EMAG's comparison; scale: the authors' s 3"),
        "seg": Entry({"scale": 4.0, "layers": MIDDLE, "sigma": 1.0}, "blocks, sigma: EMAG's comparison; scale: SDXL's s 3"),
        "erg": Entry({"layers": MIDDLE}, "EMAG's comparison"),
        "erg-push": Entry({"scale": 1.5, "layers": MIDDLE}, "EMAG's comparison"),
        "emag": Entry({"scale": 3.0, "layers": MIDDLE, "window": DIT_WINDOW}, "the authors' DiT scripts"),
        "apg": Entry({"scale": 4.0, "norm_threshold": 5.0, "momentum": -0.5}, "the authors' DiT scripts"),
        "cads": Entry({"scale": 0.006, "tau1": 0.475, "tau2": 0.9, "psi": 1.0}, "the authors' DiT scripts"),
        "cfg": Entry({"scale": 1.5}, "the authors' DiT scripts"),
    },
    "PixArtTransformer2DModel": {
        "nag": Entry({"scale": 5.0, "alpha": 0.38, "sigma_end": 0.97, "cross": True},
                     "the authors' ComfyUI workflow for SD1.5, a model with cross-attention; sigma_end 4 of k-diffusion"),
        "vsf": Entry({"flip": 1.8, "offset": 0.2, "cross": True},
                     "the authors' values for Wan-1.3B, a model with cross-attention: s 1.7 to 1.9, bias -0.2"),
        "pladis": Entry({"cross": True}, "published for cross-attention"),
        "pag": Entry({"scale": 5.0, "layers": (14 / 28,)}, "diffusers PixArt PAG example: s 4, block 14"),
        "emag": Entry({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
        "cfg": Entry({"scale": 4.5}, "diffusers PixArtAlphaPipeline"),
    },
    "HunyuanDiT2DModel": {
        "nag": Entry({"scale": 5.0, "alpha": 0.38, "sigma_end": 0.97, "cross": True}, "untested default: PixArt's"),
        "vsf": Entry({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: PixArt's"),
        "pladis": Entry({"cross": True}, "published for cross-attention"),
        "emag": Entry({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
        "cfg": Entry({"scale": 5.0}, "diffusers HunyuanDiTPipeline"),
    },
    "SanaTransformer2DModel": {
        "nag": Entry({"scale": 5.0, "alpha": 0.38, "sigma_end": 0.97, "cross": True}, "untested default: PixArt's"),
        "vsf": Entry({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: PixArt's"),
        "pladis": Entry({"cross": True}, "published for cross-attention"),
        "emag": Entry({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "none works: linear attention has no map"),
        "cfg": Entry({"scale": 4.5}, "diffusers SanaPipeline"),
    },
}
