"""What holds for every network that names nothing of its own."""



from ..schedules import Interval
from .records import SKIP, Default, Family

FAMILY = Family(
    "What holds for every network that names nothing of its own",
    defaults={
        "*": {
            "nag": Default({"scale": 5.0, "alpha": 0.25, "sigma_end": 0.75},
                           "the authors' ComfyUI workflows for Flux and SD3.5"),
            "nasa": Default({"strength": 0.5}, "the authors' PixArt-alpha; untested elsewhere"),
            "vsf": Default({"flip": 3.5, "offset": 0.1}, "the authors' SD3.5-large-turbo script"),
            "textailor": Default({"layers": tuple(at / 57 for at in (2, 7, 12, 17, 22))},
                                 "the authors' blocks of FLUX.1 dev, untested elsewhere"),
            "token-merge": Default({"ratio": 0.7, "pool": 1.4, "start": 2, "early": "cells", "likeness": "features"},
                                   "the authors' Stable Diffusion 2, untested elsewhere"),
            "s-cfg": Default({"scale": 7.5}, "the authors' Stable Diffusion scripts"),
            "slg": Default({"scale": SKIP}, "diffusers' SLG guider: s 2.8"),
            "stg": Default({"scale": 2.0}, "the authors' s 1 on video models"),
            "s2": Default({"scale": Interval(1.25, 0.1, 0.9, "progress")}, "untested scale; the window as reported"),
            "ssg": Default({"scale": 2.0}, "a third party's s 1; s 1 to 3 reported"),
            "tpg": Default({"scale": 4.0}, "the authors' s 3 on SDXL"),
            "sag": Default({"scale": 1.75, "kernel": 9}, "diffusers on Stable Diffusion: s 0.75"),
            "pag": Default({"scale": 4.0}, "the authors' s 3 on Stable Diffusion 1.5"),
            "seg": Default({"scale": 4.0, "sigma": 1e7}, "the authors' SDXL example: s 3, the mean query"),
            "erg-push": Default({"scale": 1.5}, "EMAG's comparison on DiT"),
            "sg": Default({"scale": 4.0}, "the authors' s 3 on Stable Diffusion 1.4 and 3"),
            "internal-guidance": Default({"scale": 1.4}, "the authors' SiT-XL and, beside CFG, LightningDiT"),
            "swg": Default({"scale": 1.2}, "the authors' s 0.2 on EDM2-S, for FID; 2.1 for FDD"),
            "soft-pag": Default({"scale": 4.0}, "the authors' s 3; 8 on FLUX"),
            "asag": Default({"scale": 2.5}, "a community port: s 1.5, the middle block"),
            "dng": Default({"scale": 6.0}, "the authors' lambda 5 on CIFAR-10"),
            "apg": Default({"scale": 4.0, "norm_threshold": 15.0, "momentum": -0.5},
                           "untested default: DiT's scale and momentum, diffusers' threshold"),
            "perp-neg": Default({"scale": 8.0}, "ComfyUI's node"),
            "sld": Default({"scale": 7.5}, "the published settings, on Stable Diffusion"),
            "contrastive": Default({"scale": 7.5}, "the authors' script for Stable Diffusion"),
            "zeresfdg": Default({"scale": 4.5}, "a port's, untested"),
            "c-tag": Default({"scale": 4.0}, "untested default"),
            "smc-cfg": Default({"scale": 5.0}, "the authors' Wan script; 7.5 on SD3, 2 to 3 on FLUX, 4 on Qwen-Image"),
            "fresca": Default({"scale": 4.0}, "untested default"),
            "mahiro": Default({"scale": 4.0}, "untested default"),
            "adg": Default({"scale": 6.0}, "a port's"),
            "pmc-cfg": Default({"scale": 5.0}, "untested default"),
            "adamag": Default({"scale": 5.0}, "untested default"),
            "tonemap": Default({"scale": 8.0}, "untested default"),
            "covhis": Default({"scale": 7.5}, "their runs of SiT-XL"),
            "samg": Default({"scale": 7.5}, "a port's, for SD1.5 and SDXL"),
            "core2": Default({"scale": 1.5}, "the authors', on SD3.5"),
            "skimmed": Default({"scale": 8.0}, "untested default"),
            "cads": Default({"scale": 0.25, "tau1": 0.6, "tau2": 0.9, "psi": 1.0},
                            "the paper's for Stable Diffusion 2.1 at CFG 9, as quoted; psi of all ports but ComfyUI's"),
            "ag": Default({"threshold": 0.999}, "a third party on SDXL at CFG 7, where 18 of 50 steps evaluate both"),
        },
    },
)
