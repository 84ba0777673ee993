"""Guidance at the tokens a model is unsure about."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Step, TokenStep, check_tokens
from ...errors import BadValue
from ...maths.logits import token_entropy
from ...maths.vectors import extrapolate
from ...schedules import Scale, check_scale, known, weight
from .base import TokenRule


@dataclass(frozen=True)
class MTI(TokenRule):
    """Minimal test-time intervention: CFG at those tokens alone whose distribution has a high entropy.

    Each row is judged by its own conditional distribution; of a masked text, or an image of masked tokens, each place that
    is not filled in yet. Where none is unsure, the unconditional branch is not evaluated; where it is next, it catches up on
    the tokens it has missed in one pass. The authors' unconditional branch is the text so far with a short negative suffix:
    null=emag.tokens.suffix("OUTPUT ERROR"), which is read from the prompt's own cache. Any other null= works, too.

    Args:
        scale: w, at least 0, or a schedule over the tokens; 1 is off.
        threshold: entropy in nats above which a token is guided; below 0 every token is (plain CFG), and infinity is
            not needed: leave the rule out. The paper's value is unconfirmed, hence no default.

    >>> import emag
    >>> emag.tokens.MTI(1.5, threshold=1.0).equation
    'u + w (p - u) where H(c) > threshold'
    """

    scale: Scale | None = None
    threshold: float | None = None

    name = "mti"
    paper = "arXiv 2510.13940"
    equation = "u + w (p - u) where H(c) > threshold"
    kind = "combining"
    cost = "the unconditional evaluation at unsure tokens alone"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)

    def fits_tokens(self, timed: bool) -> None:
        check_tokens(self.name, self.scale, timed)
        if self.threshold is None:
            raise BadValue("mti has no default threshold: give one in nats, e.g. mti=1.5,threshold=1 (at most "
                           f"log(vocabulary), {math.log(32000):.1f} of 32 000 tokens)")

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) != 1

    def spares_null(self, step: Step, state: dict[str, Any]) -> bool:
        return not bool(self._unsure(step).any())

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step) or UNCOND not in branches:
            return pred
        guided = extrapolate(branches[UNCOND], pred, weight(self.scale, branches, step, state, pred))
        return torch.where(self._unsure(step).unsqueeze(-1), guided, pred)

    def _unsure(self, step: Step) -> torch.Tensor:
        """[rows], or [rows, places] where several are predicted at once: which of those that count are unsure."""
        assert isinstance(step, TokenStep) and self.threshold is not None
        entropy = token_entropy(step.cond)
        return (entropy > self.threshold) & step.live.view(*step.live.shape, *[1] * (entropy.ndim - step.live.ndim))
