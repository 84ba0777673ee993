"""The algebra: steps, rules, branches, strengths and how they combine. It knows nothing of networks, images or hosts."""

from .branch import Conditioned, OnLayers, Perturbation
from .combine import (
    States,
    combine,
    condition_names,
    evaluates_null,
    needed_branches,
    needs_null,
    reads_null,
    weak_branches,
    with_null,
)
from .fields import FiniteFields, check_finite
from .rule import AUTO, LATE, Rule, RuleKind
from .schedule import Scale, Schedule, at_time, check_scale, check_timed, check_tokens, known, label, weight
from .state import Rows, Sdpa, State, Tokens
from .step import COND, UNCOND, Access, Branches, EstimateOf, Look, Part, RunStart, Score, Side, Step, TokenStep

__all__ = [
    "AUTO",
    "COND",
    "LATE",
    "UNCOND",
    "Access",
    "Branches",
    "Conditioned",
    "EstimateOf",
    "FiniteFields",
    "Look",
    "OnLayers",
    "Part",
    "Perturbation",
    "Rows",
    "Rule",
    "RuleKind",
    "RunStart",
    "Scale",
    "Schedule",
    "Score",
    "Sdpa",
    "Side",
    "State",
    "States",
    "Step",
    "TokenStep",
    "Tokens",
    "at_time",
    "check_finite",
    "check_scale",
    "check_timed",
    "check_tokens",
    "combine",
    "condition_names",
    "evaluates_null",
    "known",
    "label",
    "needed_branches",
    "needs_null",
    "reads_null",
    "weak_branches",
    "weight",
    "with_null",
]
