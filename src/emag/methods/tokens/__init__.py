"""Rules for tokens alone, by name. CFG, Negative, Compose and AG(on="logp") work there too."""

from ...core import Rule
from ..combining.cfg import CFG
from ..combining.compose import Compose
from ..null.ag import AG
from ..weak.negative import Negative
from .cognac import CognacGen
from .lm_guidance import LMGuidance
from .mti import MTI
from .scored import CAIF, GeDi
from .soft_cfg import SoftCFG

TOKEN_METHODS: dict[str, type[Rule]] = {method.name: method for method in (
    CFG, MTI, SoftCFG, Negative, Compose, AG, GeDi, CAIF, CognacGen, LMGuidance,
)}
"""All rules that logits of tokens can be guided by."""
