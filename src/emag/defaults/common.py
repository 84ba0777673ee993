"""Defaults of the embedded model, and every model."""

from ..schedules import Interval
from .entry import MIDDLE, SD3_WINDOW, SKIP, Defaults, Entry

_LOOKED = "small enough to look right on sheets of `emag compare --all`"

ENTRIES: Defaults = {
    "tiny": {
        "emag": Entry({"scale": 1.5, "layers": (2, 3, 4), "window": SD3_WINDOW},
                      "visible on sheets; what it does to quality is in docs/emag.md"),
        "pag": Entry({"scale": 1.3, "layers": (4,)}, _LOOKED), "seg": Entry({"scale": 1.3, "sigma": 2.0}, _LOOKED),
        "asag": Entry({"scale": 1.2}, _LOOKED), "erg-push": Entry({"scale": 1.25}, _LOOKED),
        "slg": Entry({"scale": 1.3}, _LOOKED), "tsg": Entry({"scale": 1.5}, _LOOKED),
        "stg": Entry({"scale": 1.3}, _LOOKED), "vsf": Entry({"flip": 1.0, "offset": 1.0}, _LOOKED),
        "apg": Entry({"scale": 4.0, "norm_threshold": 2.5, "momentum": -0.5},
                     "looked at; bench/results.yaml has 6, the best of four there"),
        "cads": Entry({"scale": 0.25, "tau1": 0.6, "tau2": 1.0, "psi": 1.0}, "SD3's, looked at"),
        "cfg": Entry({"scale": 2.5}, "the pipeline's default"),
        "ag": Entry({"threshold": 0.9998}, "measured: as accurate as cfg, and about a quarter of the unconditional "
                                           "evaluations spared; 0.99 loses a fifth of the accuracy"),
        "s-cfg": Entry({"scale": 2.5, "layers": MIDDLE}, "untested default: the CFG scale, the middle blocks"),
    },
    "*": {
        "nag": Entry({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75}, "the authors' ComfyUI workflows for Flux and SD3.5"),
        "vsf": Entry({"flip": 3.5, "offset": 0.1}, "the authors' SD3.5-large-turbo script"),
        "s-cfg": Entry({"scale": 7.5}, "the authors' Stable Diffusion scripts"),
        "slg": Entry({"scale": SKIP}, "diffusers' SLG guider: s 2.8"),
        "stg": Entry({"scale": 2.0}, "the authors' s 1 on video models"),
        "s2": Entry({"scale": Interval(1.25, 0.1, 0.9, "progress")}, "untested scale; the window as reported"),
        "tpg": Entry({"scale": 4.0}, "the authors' s 3 on SDXL"),
        "sag": Entry({"scale": 1.75, "kernel": 9}, "diffusers on Stable Diffusion: s 0.75"),
        "pag": Entry({"scale": 4.0}, "the authors' s 3 on Stable Diffusion 1.5"),
        "seg": Entry({"scale": 4.0, "sigma": 1e7}, "the authors' SDXL example: s 3, the mean query"),
        "erg-push": Entry({"scale": 1.5}, "EMAG's comparison on DiT"),
        "asag": Entry({"scale": 2.5}, "a community port: s 1.5, the middle block"),
        "apg": Entry({"scale": 4.0, "norm_threshold": 15.0, "momentum": -0.5},
                     "untested default: DiT's scale and momentum, diffusers' threshold"),
        "cads": Entry({"scale": 0.25, "tau1": 0.6, "tau2": 0.9, "psi": 1.0},
                      "the paper's for Stable Diffusion 2.1, with CFG at 9, as quoted; psi of all ports but ComfyUI's (0)"),
        "ag": Entry({"threshold": 0.999}, "a third party on SDXL at CFG 7, where 18 of 50 steps evaluate both"),
    },
}
