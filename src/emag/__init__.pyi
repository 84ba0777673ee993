"""The public names, and where each is at home. `emag.X` is all a user needs to know."""

# guide what is there
from . import scores as scores
from . import tokens as tokens

# to write a rule of one's own
from .core import (
    COND as COND,
)
from .core import (
    UNCOND as UNCOND,
)
from .core import (
    Branches as Branches,
)
from .core import (
    Perturbation as Perturbation,
)
from .core import (
    Rule as Rule,
)
from .core import (
    State as State,
)
from .core import (
    Step as Step,
)

# errors
from .errors import BadValue as BadValue
from .errors import Busy as Busy
from .errors import EmagError as EmagError
from .errors import NoEffect as NoEffect
from .errors import NotFinite as NotFinite
from .errors import Unsupported as Unsupported
from .families import register as register
from .hosts.content import content_tokens as content_tokens
from .hosts.guided import guided as guided
from .hosts.guider import EmagGuider as EmagGuider
from .hosts.load import load as load
from .hosts.pipeline import Guided as Guided
from .hosts.pipeline import guide as guide
from .hosts.refine import refine as refine
from .hosts.with_weak import WithWeak as WithWeak
from .methods import method as method

# after combining
from .methods.after.dynamic_threshold import DynamicThreshold as DynamicThreshold
from .methods.after.epsilon_scaling import EpsilonScaling as EpsilonScaling
from .methods.after.higs import HiGS as HiGS
from .methods.after.momentum import Momentum as Momentum
from .methods.after.renorm import EPCFG as EPCFG
from .methods.after.renorm import CFGNorm as CFGNorm
from .methods.after.renorm import CFGRenorm as CFGRenorm
from .methods.after.rescale import Rescale as Rescale
from .methods.after.sg_prev import SGPrev as SGPrev
from .methods.after.tag import TAG as TAG
from .methods.after.tsr import TSR as TSR
from .methods.after.zero_init import ZeroInit as ZeroInit

# inside the attention
from .methods.attention.feature_reuse import FeatureReuse as FeatureReuse
from .methods.attention.gag import GAG as GAG
from .methods.attention.nag import NAG as NAG
from .methods.attention.nasa import NASA as NASA
from .methods.attention.neg_to_me import NegToMe as NegToMe
from .methods.attention.onag import ONAG as ONAG
from .methods.attention.pladis import PLADIS as PLADIS
from .methods.attention.taca import TACA as TACA
from .methods.attention.textailor import TexTailor as TexTailor
from .methods.attention.token_merge import TokenMerge as TokenMerge
from .methods.attention.vsf import VSF as VSF

# combining
from .methods.combining.apg import APG as APG
from .methods.combining.bounded import ADG as ADG
from .methods.combining.bounded import PMCCFG as PMCCFG
from .methods.combining.bounded import AdaMaG as AdaMaG
from .methods.combining.c_tag import CTAG as CTAG
from .methods.combining.cfg import CFG as CFG
from .methods.combining.compose import Compose as Compose
from .methods.combining.compose import Term as Term
from .methods.combining.contrastive import ContrastiveCFG as ContrastiveCFG
from .methods.combining.core2 import CoRe2 as CoRe2
from .methods.combining.covhis import CovHiS as CovHiS
from .methods.combining.cs_apg import CSAPG as CSAPG
from .methods.combining.fa_cfg import FACFG as FACFG
from .methods.combining.fdg import FDG as FDG
from .methods.combining.fresca import FreSca as FreSca
from .methods.combining.hiwave import HiWave as HiWave
from .methods.combining.hm_cfg import HMCFG as HMCFG
from .methods.combining.mahiro import MaHiRo as MaHiRo
from .methods.combining.perp_neg import PerpNeg as PerpNeg
from .methods.combining.s_cfg import SCFG as SCFG
from .methods.combining.samg import SAMG as SAMG
from .methods.combining.skimmed import SkimmedCFG as SkimmedCFG
from .methods.combining.sld import SLD as SLD
from .methods.combining.smc import SMCCFG as SMCCFG
from .methods.combining.tonemap import Tonemap as Tonemap
from .methods.combining.zeresfdg import ZeResFDG as ZeResFDG

# condition rules
from .methods.condition.cads import CADS as CADS
from .methods.condition.modulation import ModulationGuidance as ModulationGuidance
from .methods.condition.phase_negative import PhaseNegative as PhaseNegative

# weak branches
from .methods.emag.in_null import EMAGNull as EMAGNull
from .methods.emag.rule import EMAG as EMAG

# towards what a score prefers
from .methods.energy.rule import Energy as Energy
from .methods.energy.scg import SCG as SCG

# the unconditional branch
from .methods.null.ag import AG as AG
from .methods.null.cdg import CDG as CDG
from .methods.null.cfg_cache import CFGCache as CFGCache
from .methods.null.domain import Domain as Domain
from .methods.null.erg import ERG as ERG
from .methods.null.gfcg import GFCG as GFCG
from .methods.null.icg import ICG as ICG
from .methods.null.linear_ag import LinearAG as LinearAG
from .methods.null.oec import OEC as OEC
from .methods.null.personalization import Personalization as Personalization
from .methods.null.priors import Priors as Priors
from .methods.null.rcfg import RCFG as RCFG
from .methods.null.recfg import ReCFG as ReCFG
from .methods.null.rlg import RLG as RLG
from .methods.null.tcfg import TCFG as TCFG
from .methods.null.unguide import UnGuide as UnGuide
from .methods.null.zero_star import ZeroStar as ZeroStar
from .methods.weak.asag import ASAG as ASAG
from .methods.weak.autoguidance import Autoguidance as Autoguidance
from .methods.weak.dng import DNG as DNG
from .methods.weak.erg_push import ERGPush as ERGPush
from .methods.weak.internal import InternalGuidance as InternalGuidance
from .methods.weak.negative import Negative as Negative
from .methods.weak.pag import PAG as PAG
from .methods.weak.s2 import S2 as S2
from .methods.weak.sag import SAG as SAG
from .methods.weak.seg import SEG as SEG
from .methods.weak.sg import SG as SG
from .methods.weak.sine import SINE as SINE
from .methods.weak.slg import SLG as SLG
from .methods.weak.soft_pag import SoftPAG as SoftPAG
from .methods.weak.soft_pag import select_heads as select_heads
from .methods.weak.spg import SPG as SPG
from .methods.weak.ssg import SSG as SSG
from .methods.weak.stg import STG as STG
from .methods.weak.swg import SWG as SWG
from .methods.weak.tpg import TPG as TPG
from .methods.weak.tsg import TSG as TSG
from .records.named import recipes as recipes

# our own loop
from .samplers import (
    CFGMP as CFGMP,
)
from .samplers import (
    FDS as FDS,
)
from .samplers import (
    FKC as FKC,
)
from .samplers import (
    FSG as FSG,
)
from .samplers import (
    PCG as PCG,
)
from .samplers import (
    W2SD as W2SD,
)
from .samplers import (
    CFGpp2M as CFGpp2M,
)
from .samplers import (
    CFGpp2S as CFGpp2S,
)
from .samplers import (
    CFGppEuler as CFGppEuler,
)
from .samplers import (
    Characteristic as Characteristic,
)
from .samplers import (
    Corrector as Corrector,
)
from .samplers import (
    CtrlZ as CtrlZ,
)
from .samplers import (
    DCSolver as DCSolver,
)
from .samplers import (
    Euler as Euler,
)
from .samplers import (
    FKCAnneal as FKCAnneal,
)
from .samplers import (
    FKCProduct as FKCProduct,
)
from .samplers import (
    FKCReward as FKCReward,
)
from .samplers import (
    Path as Path,
)
from .samplers import (
    RectifiedCFGpp as RectifiedCFGpp,
)
from .samplers import (
    Reflection as Reflection,
)
from .samplers import (
    ReverseSDE as ReverseSDE,
)
from .samplers import (
    Solver as Solver,
)
from .samplers import (
    StyleMoments as StyleMoments,
)
from .samplers import (
    UniPC as UniPC,
)
from .samplers import (
    invert as invert,
)
from .samplers import (
    sample as sample,
)

# a scale over the steps; when a rule acts
from .schedules import (
    C2FG as C2FG,
)
from .schedules import (
    FBG as FBG,
)
from .schedules import (
    MAMBOG as MAMBOG,
)
from .schedules import (
    VAGS as VAGS,
)
from .schedules import (
    Annealing as Annealing,
)
from .schedules import (
    BetaCFG as BetaCFG,
)
from .schedules import (
    CFGpp as CFGpp,
)
from .schedules import (
    Constant as Constant,
)
from .schedules import (
    Curve as Curve,
)
from .schedules import (
    Feedback as Feedback,
)
from .schedules import (
    Interval as Interval,
)
from .schedules import (
    NoisePower as NoisePower,
)
from .schedules import (
    PowerLaw as PowerLaw,
)
from .schedules import (
    Rectified as Rectified,
)
from .schedules import (
    Schedule as Schedule,
)
from .schedules import (
    Transition as Transition,
)
from .schedules import (
    Triangle as Triangle,
)
from .schedules import (
    Waning as Waning,
)
from .schedules import (
    Window as Window,
)

__version__: str
