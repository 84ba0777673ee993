"""Sampling-time guidance for diffusion transformers: EMAG and the rules it combines with."""

from .errors import BadValue, Busy, EmagError, NoEffect, Unsupported
from .hosts.pipeline import Guided, guide
from .models.load import load
from .perturbations.ema_attention import EMAG
from .rules.apg import APG
from .rules.cads import CADS
from .rules.cfg import CFG
from .schedules import Window

__version__ = "0.1.0"
__all__ = [
           "APG",
           "CADS",
           "CFG",
           "EMAG",
           "BadValue",
           "Busy",
           "EmagError",
           "Guided",
           "NoEffect",
           "Unsupported",
           "Window",
           "guide",
]
