"""Pipelines whose guidance is a component of theirs: its scale, as the argument that other pipelines have."""

from typing import Any

from diffusers.guiders import ClassifierFreeGuidance

from ..errors import Unsupported
from ..families import Host


def with_scale(arguments: dict[str, Any], host: Host, pipe: Any) -> dict[str, Any]:
    """`arguments`, with the scale of the pipeline's guider under `host.scale`, 1 where it is off.

    Raises `Unsupported` for a guider that is not plain CFG over all steps, or where there are two.
    """
    if host.guider is None or host.scale is None:
        return arguments
    if host.further_guider and getattr(pipe, host.further_guider, None) is not None:
        raise Unsupported(f"this {host.name} takes its {host.further_guider} in the place of its {host.guider} for some "
                          f"prompts: leave it out, pipe.{host.further_guider} = None")
    guider = getattr(pipe, host.guider)
    if type(guider) is not ClassifierFreeGuidance:
        raise Unsupported(f"the guider of this {host.name} is {type(guider).__name__}: give it a plain "
                          "diffusers.ClassifierFreeGuidance, and name the method as a rule of emag.guide")
    if (guider._start, guider._stop) != (0.0, 1.0):
        raise Unsupported(f"the guider of this {host.name} works from {guider._start:g} to {guider._stop:g} of the run: "
                          "give it start=0 and stop=1, and emag.guide a scale over the steps, e.g. "
                          "CFG(Interval(4.0, 0.2, 0.8))")
    on = guider._enabled and guider.num_conditions > 1
    scale = guider.guidance_scale + guider.use_original_formulation if on else 1.0
    if on and scale <= 1:
        raise Unsupported(f"the guider of this {host.name} has the scale {scale:g}: give it one above 1, or 1 to switch "
                          "it off")
    return {**arguments, host.scale: scale}
