"""The public names of `emag`, which loads this module when the first of them is asked for."""

from .combinations import RECIPES as recipes
from .hosts.function import guided
from .hosts.pipeline import Guided, guide
from .perturbations.ema_attention import EMAG
from .rules.apg import APG
from .rules.cads import CADS
from .rules.cfg import CFG
from .rules.compose import Compose, Term
from .schedules import Window

__all__ = ["APG", "CADS", "CFG", "EMAG", "Compose", "Guided", "Term", "Window", "guide", "guided", "recipes"]
