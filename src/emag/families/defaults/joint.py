"""Defaults of image transformers whose attention joins image and text."""

from ..default import EARLY, MIDDLE, SD3_WINDOW, SKIP, Defaults, Entry

ENTRIES: Defaults = {
    "SD3Transformer2DModel": {
        "nag": Entry({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75}, "the authors' ComfyUI workflow for SD3.5-turbo"),
        "vsf": Entry({"flip": 3.5, "offset": 0.1}, "the authors' SD3.5-large-turbo script"),
        "slg": Entry({"scale": SKIP, "layers": (7 / 24, 8 / 24, 9 / 24)},
                     "diffusers SD3 pipeline: s 2.8; blocks 7-9 of SD3.5-medium, which do not suit SD3.5-large"),
        "pag": Entry({"scale": 1.7, "layers": (13 / 24,)}, "diffusers SD3 PAG example: s 0.7, block 13"),
        "seg": Entry({"scale": 3.8, "layers": (7 / 24, 8 / 24, 9 / 24), "sigma": 1e7},
                     "diffusers' SEG guider: s 2.8, the mean query, blocks 7-9 of SD3.5-medium"),
        "emag": Entry({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "the authors' SD3 scripts"),
        "apg": Entry({"scale": 12.0, "norm_threshold": 7.5, "momentum": -0.5}, "the authors' SD3 scripts"),
        "cads": Entry({"scale": 0.25, "tau1": 0.6, "tau2": 1.0, "psi": 1.0}, "the authors' SD3 scripts"),
        "rlg": Entry({"scale": 1.6}, "the authors' command line, SD3.5 medium"),
        "cfg": Entry({"scale": 7.0}, "diffusers StableDiffusion3Pipeline"),
        "s-cfg": Entry({"scale": 7.0, "layers": MIDDLE}, "untested default: the CFG scale, the middle blocks"),
    },
    "FluxTransformer2DModel": {
        "emag": Entry({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
        "cfg": Entry({"scale": 3.5}, "untested default"),
        "s-cfg": Entry({"scale": 3.5, "layers": MIDDLE}, "untested default: the CFG scale, the middle blocks"),
    },
    "QwenImageTransformer2DModel": {
        "emag": Entry({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
        "cfg": Entry({"scale": 4.0}, "diffusers QwenImagePipeline, which rescales to the conditional norm and we do not"),
    },
    "ChromaTransformer2DModel": {
        "emag": Entry({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
        "cfg": Entry({"scale": 5.0}, "diffusers ChromaPipeline"),
    },
    "Flux2Transformer2DModel": {
        "emag": Entry({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
        "cfg": Entry({"scale": 4.0}, "diffusers Flux2KleinPipeline"),
    },
    "CogView4Transformer2DModel": {
        "emag": Entry({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
        "cfg": Entry({"scale": 5.0}, "diffusers CogView4Pipeline"),
    },
    "AuraFlowTransformer2DModel": {
        "emag": Entry({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
        "cfg": Entry({"scale": 3.5}, "diffusers AuraFlowPipeline"),
    },
}
