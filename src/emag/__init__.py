"""Sampling-time guidance for diffusion transformers: EMAG and the rules it combines with."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import quiet
from .errors import BadValue, Busy, EmagError, NoEffect, NotFinite, Unsupported

if TYPE_CHECKING:
    from .api import APG, CADS, CFG, EMAG, Compose, Guided, Term, Window, guide, guided, recipes
    from .models.load import load

__version__ = "0.1.0"
__all__ = ["APG", "CADS", "CFG", "EMAG", "BadValue", "Busy", "Compose", "EmagError", "Guided", "NoEffect",
           "NotFinite", "Term", "Unsupported", "Window", "guide", "guided", "load", "recipes"]

quiet.hush()


def __getattr__(name: str) -> Any:
    """Public names and modules, when they are asked for. `import emag` alone brings neither torch nor diffusers."""
    place = f"{__name__}.{name}"
    if name.startswith("__"):
        raise AttributeError(f"module 'emag' has no attribute {name!r}")
    if name == "load":  # imports every text encoder library: only when asked for
        return import_module(f"{__name__}.models.load").load
    if name in __all__:
        return getattr(import_module(f"{__name__}.api"), name)
    if find_spec(place) is None:
        raise AttributeError(f"module 'emag' has no attribute {name!r}")
    return import_module(place)
