"""When a rule acts (`Window`), and how strongly (`Schedule`)."""

from ..core import Scale, Schedule, at_time, check_scale, check_timed, known, label, weight
from .annealing import Annealing
from .curves import Constant, Curve, Interval, Rectified
from .feedback import Feedback
from .grown import C2FG, Triangle
from .likelihood import FBG, Transition
from .measured import VAGS, PowerLaw
from .noise import NoisePower
from .normed import MAMBOG, BetaCFG
from .renoise import CFGpp
from .waning import Waning
from .window import APPLIED, OBSERVED, Phase, Window, equal_time, k2idx

SCHEDULES: dict[str, type[Schedule]] = {schedule.name: schedule for schedule in (
    Constant, Interval, Curve, Rectified, NoisePower, C2FG, Triangle, PowerLaw, VAGS, BetaCFG, MAMBOG, CFGpp, Annealing,
    Waning, FBG, Transition)}
"""The schedules by name, but for Feedback, which holds a function. Adding one is one class and one entry here."""

__all__ = ["APPLIED", "C2FG", "FBG", "MAMBOG", "OBSERVED", "SCHEDULES", "VAGS", "Annealing", "BetaCFG", "CFGpp",
           "Constant", "Curve", "Feedback", "Interval", "NoisePower", "Phase", "PowerLaw", "Rectified", "Scale", "Schedule",
           "Transition", "Triangle", "Waning", "Window", "at_time", "check_scale", "check_timed", "equal_time", "k2idx",
           "known", "label", "weight"]
