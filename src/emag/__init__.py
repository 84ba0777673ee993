"""Sampling-time guidance for diffusion transformers: EMAG and the rules it combines with."""

from typing import TYPE_CHECKING, Any

from .combinations import RECIPES as recipes
from .errors import BadValue, Busy, EmagError, NoEffect, NotFinite, Unsupported
from .hosts.function import guided
from .hosts.pipeline import Guided, guide
from .perturbations.ema_attention import EMAG
from .rules.apg import APG
from .rules.cads import CADS
from .rules.cfg import CFG
from .rules.compose import Compose, Term
from .schedules import Window

if TYPE_CHECKING:
    from .models.load import load

__version__ = "0.1.0"
__all__ = ["APG", "CADS", "CFG", "EMAG", "BadValue", "Busy", "Compose", "EmagError", "Guided", "NoEffect",
           "NotFinite", "Term", "Unsupported", "Window", "guide", "guided", "load", "recipes"]


def __getattr__(name: str) -> Any:
    if name == "load":  # imports every text encoder library: only when asked for
        from .models.load import load

        return load
    raise AttributeError(f"module 'emag' has no attribute {name!r}")
