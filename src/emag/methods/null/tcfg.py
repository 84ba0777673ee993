"""Tangential damping of the unconditional prediction."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Rule, Step
from ...maths.vectors import per_sample


@dataclass(frozen=True)
class TCFG(Rule):
    """Tangential damping CFG: u keeps only its part along what the two predictions share.

    With v the leading right-singular vector of the two rows [c; u], per sample: u <- <u, v> v. It changes the
    unconditional prediction and combines nothing: whatever does (the host's CFG, CFG, APG) sees the new u. Has no
    parameter.

    >>> import emag
    >>> emag.TCFG().kind  # emag.guide(pipe, emag.TCFG(), emag.CFG(4.0))
    'null'
    """

    name = "tcfg"
    paper = "arXiv 2503.18137"
    equation = "u <- <u, v> v, v the leading singular vector of [c; u]"
    kind = "null"

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        return along_shared(branches[COND], branches[UNCOND]) if UNCOND in branches else None


def along_shared(cond: torch.Tensor, uncond: torch.Tensor) -> torch.Tensor:
    """Part of `uncond` [batch, ...] along the leading singular vector of the two, per sample, in fp64.

    With (lam, q) the leading eigenpair of the Gram matrix, v = (q0 c + q1 u) / sqrt(lam) and <u, v> v = q1 (q0 c + q1 u).
    """
    pair = torch.stack([cond.flatten(1), uncond.flatten(1)], 1).double()
    # the 2 x 2 Gram matrix has the squared singular values of [c; u]: no SVD of two long rows
    q = torch.linalg.eigh(pair @ pair.mT).eigenvectors[:, :, -1]
    shared = per_sample(q[:, 0] * q[:, 1], cond) * cond.double() + per_sample(q[:, 1].square(), cond) * uncond.double()
    return shared.to(uncond.dtype)
