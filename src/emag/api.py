"""The public names of `emag`, which loads this module when the first of them is asked for."""

from .hosts.function import guided
from .hosts.pipeline import Guided, guide
from .methods.combining.apg import APG
from .methods.combining.cfg import CFG
from .methods.combining.compose import Compose, Term
from .methods.condition.cads import CADS
from .methods.emag.rule import EMAG
from .records.named import RECIPES as recipes
from .schedules import Window

__all__ = ["APG", "CADS", "CFG", "EMAG", "Compose", "Guided", "Term", "Window", "guide", "guided", "recipes"]
