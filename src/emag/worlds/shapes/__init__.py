"""Scenes of coloured shapes: `request` and `place` draw them, `say` and `read` are their prompts, `render` paints them.

What is right and wrong in an image is told by `emag.worlds.shapes.verdict.judge`, whether a set of images has the world's
distribution by `emag.worlds.shapes.truth.compare`; both need scipy (emag[eval]).
"""

from .draw import place, request
from .prompts import read, say
from .render import render, to_bytes
from .scene import Kind, Request, Scene

__all__ = ["Kind", "Request", "Scene", "place", "read", "render", "request", "say", "to_bytes"]
