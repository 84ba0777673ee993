"""CFG of autoregressive image models against a softened past."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Step, check_tokens
from ...maths.vectors import extrapolate
from ...schedules import Scale, check_scale, known, weight
from .base import TokenRule


@dataclass(frozen=True)
class SoftCFG(TokenRule):
    """SoftCFG: CFG whose unconditional branch sees less of those generated tokens that the model was sure of.

    In the unconditional branch the value of generated token i counts 1 - p_i / sum(p), where p_i is the largest
    probability the conditional branch gave when token i was drawn; keys stay. The weights are new at every token, so
    that what is taken away adds up to one token's value.

    Args:
        scale: w, at least 0, or a schedule over the tokens; 1 is off. The paper's gamma is w - 1: it has 13 for
            AliTok-XL, with a schedule whose form is unconfirmed.

    >>> import emag
    >>> emag.tokens.SoftCFG(2.0).cost
    'none'
    """

    scale: Scale | None = None

    name = "soft-cfg"
    paper = "arXiv 2510.00996"
    equation = "u~ + w (p - u~), values of u~ times 1 - p_i / sum(p)"
    kind = "combining"
    remembers = True

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)

    def fits_tokens(self, timed: bool) -> None:
        check_tokens(self.name, self.scale, timed)

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) != 1

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        return extrapolate(branches[UNCOND], pred, weight(self.scale, branches, step, state, pred))
