"""CFG-Zero*: the unconditional prediction scaled to fit the conditional one."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Rule, Step
from ...maths.vectors import project


@dataclass(frozen=True)
class ZeroStar(Rule):
    """The optimised scale of CFG-Zero*: u is scaled to come as near to c as it can.

    u <- k u with k = <c, u> / |u|^2, per sample, on velocities: k u is the multiple of u nearest to c. It changes the
    unconditional prediction and combines nothing: whatever does (the host's CFG, CFG, APG) sees the new u. Has no
    parameter.

    In fp64; where u is 0 it stays 0. Networks of another space are converted to (x - x0) / sigma, where the paper has
    no results. The other half of the method is `ZeroInit`.

    >>> import emag
    >>> emag.ZeroStar().space  # emag.guide(pipe, emag.ZeroStar(), emag.CFG(4.0), emag.ZeroInit())
    'flow'
    """

    name = "zero-star"
    paper = "arXiv 2503.18886"
    equation = "u <- k u, k = <c, u> / |u|^2"
    kind = "null"
    space = "flow"

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        if UNCOND not in branches:
            return None
        cond, uncond = branches[COND], branches[UNCOND]
        # k u with k = <c, u> / |u|^2 is the part of c along u
        return project(cond.double(), uncond.double())[0].to(uncond.dtype)
