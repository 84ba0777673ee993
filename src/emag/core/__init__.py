"""The algebra: steps, rules, branches and how they combine. It knows nothing of networks, images or hosts."""

from .branch import Given, OnLayers, Perturbation
from .combine import States, combine, needs_null, reads_null, with_null
from .rule import AUTO, Kind, Rule
from .state import Rows, Sdpa, State, Tokens
from .step import COND, UNCOND, Branches, Step

__all__ = ["AUTO", "COND", "UNCOND", "Branches", "Given", "Kind", "OnLayers", "Perturbation", "Rows", "Rule", "Sdpa",
           "State", "States", "Step", "Tokens", "combine", "needs_null", "reads_null", "with_null"]
