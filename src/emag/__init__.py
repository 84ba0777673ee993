"""Sampling-time guidance for diffusion transformers: EMAG and the rules it combines with."""

from typing import TYPE_CHECKING, Any

from .errors import BadValue, Busy, EmagError, NoEffect, Unsupported
from .hosts.function import guided
from .hosts.pipeline import Guided, guide
from .methods.combining.apg import APG
from .methods.combining.cfg import CFG
from .methods.combining.compose import Compose, Term
from .methods.condition.cads import CADS
from .methods.emag.rule import EMAG
from .records.named import RECIPES as recipes
from .schedules import Window

if TYPE_CHECKING:
    from .hosts.load import load

__version__ = "0.1.0"
__all__ = ["APG", "CADS", "CFG", "EMAG", "BadValue", "Busy", "Compose", "EmagError", "Guided", "NoEffect", "Term",
           "Unsupported", "Window", "guide", "guided", "load", "recipes"]


def __getattr__(name: str) -> Any:
    if name == "load":  # imports every text encoder library: only when asked for
        from .hosts.load import load

        return load
    raise AttributeError(f"module 'emag' has no attribute {name!r}")
