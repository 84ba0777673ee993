"""Defaults of video transformers."""

from .entry import EARLY, MIDDLE, SD3_WINDOW, Defaults, Entry

ENTRIES: Defaults = {
    "WanTransformer3DModel": {
        "stg": Entry({"scale": 2.0, "layers": (2 / 30,)}, "the authors' s 1, block 2; of 30 (1.3B) is unconfirmed"),
        "pladis": Entry({"cross": True}, "published for cross-attention"),
        "nag": Entry({"scale": 6.0, "alpha": 0.25, "sigma_end": 0.0, "cross": True},
                     "the authors' ComfyUI workflow for Wan, with CFG 8; for 4 steps 11, 0.5, 0.75 and tau 3.5"),
        "vsf": Entry({"flip": 1.8, "offset": 0.2, "cross": True}, "the authors' Wan-1.3B: s 1.7 to 1.9, bias -0.2"),
        "emag": Entry({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
        "cfg": Entry({"scale": 5.0}, "diffusers WanPipeline"),
    },
    "LTXVideoTransformer3DModel": {
        "stg": Entry({"scale": 2.0, "layers": (19 / 28,)}, "the authors' s 1, block 19 of 28"),
        "pladis": Entry({"cross": True}, "published for cross-attention"),
        "nag": Entry({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75, "cross": True}, "untested default: Flux's"),
        "vsf": Entry({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
        "emag": Entry({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
        "cfg": Entry({"scale": 3.0}, "diffusers LTXPipeline"),
    },
    "LTX2VideoTransformer3DModel": {
        "stg": Entry({"scale": 2.0, "layers": (28 / 48,)}, "diffusers LTX2Pipeline: s 1, block 28 of 48"),
        "pladis": Entry({"cross": True}, "published for cross-attention"),
        "nag": Entry({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75, "cross": True}, "untested default: Flux's"),
        "vsf": Entry({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
        "emag": Entry({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
        "cfg": Entry({"scale": 3.0}, "diffusers LTX2Pipeline"),
    },
    "CogVideoXTransformer3DModel": {
        "stg": Entry({"scale": 2.0, "layers": (11 / 42,)}, "the authors' s 1, block 11; of 42 (5B) is unconfirmed"),
        "emag": Entry({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
        "cfg": Entry({"scale": 6.0}, "diffusers CogVideoXPipeline"),
    },
    "MochiTransformer3DModel": {
        "stg": Entry({"scale": 2.0, "layers": (34 / 48,)}, "the authors' s 1, block 34 of 48"),
        "emag": Entry({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
        "cfg": Entry({"scale": 4.5}, "diffusers MochiPipeline"),
    },
    "WanVACETransformer3DModel": {
        "pladis": Entry({"cross": True}, "published for cross-attention"),
        "nag": Entry({"scale": 6.0, "alpha": 0.25, "sigma_end": 0.0, "cross": True}, "untested default: Wan's"),
        "vsf": Entry({"flip": 1.8, "offset": 0.2, "cross": True}, "untested default: Wan's"),
        "emag": Entry({"scale": 1.5, "layers": MIDDLE, "window": SD3_WINDOW}, "untested default: DiT's blocks"),
        "cfg": Entry({"scale": 5.0}, "diffusers WanVACEPipeline"),
    },
    "HunyuanVideo15Transformer3DModel": {
        "emag": Entry({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
        "cfg": Entry({"scale": 7.5}, "diffusers' ClassifierFreeGuidance"),
    },
    "HunyuanVideoTransformer3DModel": {
        "stg": Entry({"scale": 2.0, "layers": (2 / 60,)}, "the authors' s 1, block 2 of 60"),
        "nag": Entry({"scale": 9.0, "alpha": 0.12, "sigma_end": 0.9}, "the authors' ComfyUI workflow for HunyuanVideo"),
        "emag": Entry({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth"),
        "cfg": Entry({"scale": 6.0}, "untested default"),
    },
}
