"""The methods by name. Adding one is one module and one line here."""

from .guidance import Rule
from .perturbations.ema_attention import EMAG
from .perturbations.identity_attention import PAG
from .perturbations.independent import ICG
from .perturbations.normalized import NAG
from .perturbations.rectified import ERG, ERGPush
from .perturbations.self_attention import SAG
from .perturbations.shuffled import TPG
from .perturbations.sign_flip import VSF
from .perturbations.sinkhorn import ASAG
from .perturbations.skipped import SLG, STG
from .perturbations.smoothed import SEG
from .perturbations.sparse import PLADIS
from .perturbations.stochastic import S2
from .perturbations.style import SPG
from .perturbations.time_step import TSG
from .rules.adaptive import AG
from .rules.apg import APG
from .rules.cads import CADS
from .rules.cascade import FACFG
from .rules.cfg import CFG
from .rules.cfg_cache import CFGCache
from .rules.compose import Compose
from .rules.cs_apg import CSAPG
from .rules.frequency import FDG
from .rules.hybrid import HMCFG
from .rules.linear_ag import LinearAG
from .rules.negative import Negative
from .rules.other_null import Domain, Personalization, Priors
from .rules.phase_negative import PhaseNegative
from .rules.rescale import Rescale
from .rules.residual import RCFG
from .rules.semantic import SCFG
from .rules.tcfg import TCFG
from .rules.threshold import DynamicThreshold
from .rules.two_models import RLG, SINE, Autoguidance
from .rules.unguide import UnGuide
from .rules.zero_init import ZeroInit
from .rules.zero_star import ZeroStar

METHODS: dict[str, type[Rule]] = {method.name: method for method in (
    CADS, PhaseNegative,
    NAG, VSF, PLADIS,
    EMAG, PAG,
    SLG, STG, S2, TPG, SAG,
    SEG, ERG, ERGPush, ASAG,
    SPG,
    TSG, Negative, Autoguidance, SINE,
    ICG, Domain, Priors, Personalization, RLG, UnGuide,
    TCFG, AG, LinearAG, CFGCache, RCFG,
    CFG, APG,
    Compose, CSAPG, HMCFG,
    ZeroStar, FDG, FACFG, SCFG,
    Rescale, DynamicThreshold, ZeroInit,
)}
