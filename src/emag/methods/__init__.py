"""The methods by name. Adding one: a file in the room of its kind, a line here, its name in `emag/__init__.pyi`."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from ..core import Rule
from ..errors import BadValue
from ..near import choices
from .after.dynamic_threshold import DynamicThreshold
from .after.epsilon_scaling import EpsilonScaling
from .after.higs import HiGS
from .after.momentum import Momentum
from .after.renorm import EPCFG, CFGNorm, CFGRenorm
from .after.rescale import Rescale
from .after.sg_prev import SGPrev
from .after.tag import TAG
from .after.tsr import TSR
from .after.zero_init import ZeroInit
from .attention.feature_reuse import FeatureReuse
from .attention.gag import GAG
from .attention.nag import NAG
from .attention.nasa import NASA
from .attention.neg_to_me import NegToMe
from .attention.onag import ONAG
from .attention.pladis import PLADIS
from .attention.taca import TACA
from .attention.textailor import TexTailor
from .attention.token_merge import TokenMerge
from .attention.vsf import VSF
from .combining.apg import APG
from .combining.bounded import ADG, PMCCFG, AdaMaG
from .combining.c_tag import CTAG
from .combining.cfg import CFG
from .combining.compose import Compose
from .combining.contrastive import ContrastiveCFG
from .combining.core2 import CoRe2
from .combining.covhis import CovHiS
from .combining.cs_apg import CSAPG
from .combining.fa_cfg import FACFG
from .combining.fdg import FDG
from .combining.fresca import FreSca
from .combining.hiwave import HiWave
from .combining.hm_cfg import HMCFG
from .combining.mahiro import MaHiRo
from .combining.perp_neg import PerpNeg
from .combining.s_cfg import SCFG
from .combining.samg import SAMG
from .combining.skimmed import SkimmedCFG
from .combining.sld import SLD
from .combining.smc import SMCCFG
from .combining.tonemap import Tonemap
from .combining.zeresfdg import ZeResFDG
from .condition.cads import CADS
from .condition.modulation import ModulationGuidance
from .condition.phase_negative import PhaseNegative
from .emag.in_null import EMAGNull
from .emag.rule import EMAG
from .energy.rule import Energy
from .energy.scg import SCG
from .null.ag import AG
from .null.cdg import CDG
from .null.cfg_cache import CFGCache
from .null.domain import Domain
from .null.erg import ERG
from .null.gfcg import GFCG
from .null.icg import ICG
from .null.linear_ag import LinearAG
from .null.oec import OEC
from .null.personalization import Personalization
from .null.priors import Priors
from .null.rcfg import RCFG
from .null.recfg import ReCFG
from .null.rlg import RLG
from .null.tcfg import TCFG
from .null.unguide import UnGuide
from .null.zero_star import ZeroStar
from .weak.asag import ASAG
from .weak.autoguidance import Autoguidance
from .weak.dng import DNG
from .weak.erg_push import ERGPush
from .weak.internal import InternalGuidance
from .weak.negative import Negative
from .weak.pag import PAG
from .weak.s2 import S2
from .weak.sag import SAG
from .weak.seg import SEG
from .weak.sg import SG
from .weak.sine import SINE
from .weak.slg import SLG
from .weak.soft_pag import SoftPAG
from .weak.spg import SPG
from .weak.ssg import SSG
from .weak.stg import STG
from .weak.swg import SWG
from .weak.tpg import TPG
from .weak.tsg import TSG

METHODS: dict[str, type[Rule]] = {method.name: method for method in (
    CADS, PhaseNegative, ModulationGuidance,
    NAG, ONAG, NASA, NegToMe, VSF, PLADIS, GAG, TACA, TexTailor, EMAGNull, TokenMerge, FeatureReuse,
    EMAG, PAG, SoftPAG,
    SLG, STG, S2, TPG, SSG, SAG,
    SEG, ERG, ERGPush, ASAG,
    SPG,
    TSG, SG, SWG, InternalGuidance, Negative, DNG, Autoguidance, SINE,
    ICG, GFCG, CDG, Domain, Priors, Personalization, RLG, UnGuide,
    TCFG, AG, LinearAG, CFGCache, RCFG,
    CFG, APG,
    Compose, CSAPG, HMCFG,
    ZeroStar, FDG, FACFG, HiWave, ZeResFDG, SCFG,
    PerpNeg, CTAG, SMCCFG, FreSca, MaHiRo, ADG, PMCCFG, AdaMaG, Tonemap, SkimmedCFG, CovHiS,
    SAMG, CoRe2, SLD, ContrastiveCFG,
    OEC, ReCFG,
    Rescale, DynamicThreshold, ZeroInit,
    CFGRenorm, CFGNorm, EPCFG,
    Momentum, HiGS, SGPrev, TAG, TSR, EpsilonScaling,
    Energy, SCG,
)}
LISTED = "`emag methods` lists all"
"""What a message says in place of a hundred names."""


Made = TypeVar("Made")


@overload
def method(name: str) -> Callable[..., Rule]: ...
@overload
def method(name: str, registry: Mapping[str, Made]) -> Made: ...
def method(name: str, registry: Mapping[str, Any] = METHODS) -> Any:
    """The rule of that name, as recipes and the command line spell it: `emag.method("pag")(2.0)`.

    registry: where to look, by default among the rules. Raises `BadValue` where there is none, with the nearest name.
    """
    if name not in registry:
        raise BadValue(f"there is no method {name!r}; {choices(name, registry, listed=LISTED)}")
    return registry[name]
