"""Our own sampling loop, its solvers, and the correctors that need one."""

from .base import Corrector, GuidedModel, Solver, guided_prediction
from .cfgpp import CFGpp2M, CFGpp2S, CFGppEuler
from .characteristic import Characteristic
from .cpr import predicted_ratios
from .ctrl_z import CtrlZ
from .dc_solver import DCSolver, search_ratios
from .divergence import FDS
from .feynman_kac import FKC, FKCAnneal, FKCProduct
from .foresight import FSG
from .inversion import invert
from .langevin import PCG
from .loop import sample, sampled_path
from .manifold import CFGMP
from .particles import effective_size, resample
from .path import Path
from .rectified import RectifiedCFGpp
from .reflection import W2SD, Reflection
from .reverse_sde import ReverseSDE
from .rewarded import FKCReward
from .solvers import Euler, advance
from .style import StyleMoments
from .unipc import UniPC

SOLVERS: dict[str, type[Solver]] = {kind.name: kind for kind in (
    Euler, ReverseSDE, UniPC, DCSolver, RectifiedCFGpp, CFGppEuler, CFGpp2M, CFGpp2S, Characteristic)}
CORRECTORS: dict[str, type[Corrector]] = {kind.name: kind for kind in (
    PCG, FKC, FKCProduct, FKCAnneal, FKCReward, Reflection, W2SD, FSG, CFGMP, FDS, StyleMoments, CtrlZ)}

__all__ = [
    "CFGMP",
    "CORRECTORS",
    "FDS",
    "FKC",
    "FSG",
    "PCG",
    "SOLVERS",
    "W2SD",
    "CFGpp2M",
    "CFGpp2S",
    "CFGppEuler",
    "Characteristic",
    "Corrector",
    "CtrlZ",
    "DCSolver",
    "Euler",
    "FKCAnneal",
    "FKCProduct",
    "FKCReward",
    "GuidedModel",
    "Path",
    "RectifiedCFGpp",
    "Reflection",
    "ReverseSDE",
    "Solver",
    "StyleMoments",
    "UniPC",
    "advance",
    "effective_size",
    "guided_prediction",
    "invert",
    "predicted_ratios",
    "resample",
    "sample",
    "sampled_path",
    "search_ratios",
]
