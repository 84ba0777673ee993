"""The small model of the world of shapes: prompts such as "a red circle left of a blue ring", 64 x 64 pixels."""

from .pipeline import SmallPipeline, call

GUIDANCE_SCALE = 3.0


class ShapesPipeline(SmallPipeline):
    """`SmallPipeline` with an autoencoder, for prompts of `emag.worlds.shapes`."""

    emag_model = "shapes"
    __call__ = call(guidance_scale=GUIDANCE_SCALE)
