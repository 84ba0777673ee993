"""Defaults of image transformers with rows of different lengths, or one stream of text and image."""

from ..default import EARLY, SD3_WINDOW, Defaults, Entry

_EMAG = Entry({"scale": 1.5, "layers": EARLY, "window": SD3_WINDOW}, "untested default: SD3's relative depth")

ENTRIES: Defaults = {
    "Lumina2Transformer2DModel": {
        "emag": _EMAG,
        "cfg": Entry({"scale": 4.0}, "diffusers Lumina2Pipeline, which rescales to the conditional norm and we do not"),
    },
    "ZImageTransformer2DModel": {
        "emag": _EMAG, "cfg": Entry({"scale": 6.0}, "diffusers ZImagePipeline: cond + 5 (cond - uncond)"),
    },
    "HiDreamImageTransformer2DModel": {
        "emag": _EMAG, "cfg": Entry({"scale": 5.0}, "diffusers HiDreamImagePipeline"),
    },
    "Krea2Transformer2DModel": {
        "emag": _EMAG, "cfg": Entry({"scale": 5.5}, "diffusers Krea2Pipeline: cond + 4.5 (cond - uncond)"),
    },
}
