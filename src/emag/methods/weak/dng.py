"""Dynamic negative guidance: away from a negative prompt as far as the run looks like it."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, Branches, Rule, Step
from ...errors import BadValue
from ...maths.vectors import per_sample
from ...schedules import weight
from ...schedules.likelihood import likelier, variances
from ..common.history import moves_on
from .negative import Negative


@dataclass(frozen=True)
class DNG(Negative):
    """Dynamic negative guidance: a negative prompt whose weight follows how likely the sample is to be of it.

    It adds (w - 1) P / (1 - P) (p_c - n), with n the prediction under the negative prompt and P the posterior of it, per
    sample. P is the prior at the start. After each step that led to x',

        log P <- log P - temperature (|x' - m_n|^2 - |x' - m_c|^2) / (2 s^2) + offset / (2 s^2)

    m_n and m_c the means and s^2 the variance of the reverse transition under both predictions, as DDPM draws it. So an
    image that has nothing to do with the negative prompt is left alone. A sampler without noise moves between the means
    rather than around them, so that it tells less. Alone (CFG(1.0)) on an empty prompt it is the published class removal.

    Args:
        scale: w, at least 0, or a schedule; 1 is off, and P stays over steps where that is known. The authors' lambda is
            w - 1: 5 on CIFAR-10. None takes the model's default.
        prior: P before the first step, between `least` and `most`; 0.01 in the authors' example.
        temperature: how much a step tells, at least 0; 0.2 in the authors' example, for 1000 steps of DDPM.
        offset: what raises P as the noise falls, in units of x_t squared, at least 0; 2e-4 in the authors' example.
        least: the lowest P, above 0; 1e-6 in the authors' code.
        most: the highest P, below 1; 0.8 in the authors' example, 0.99 in their code.

    >>> import emag
    >>> emag.DNG(6.0, negative="prompt:a deer").prior
    0.01
    """

    prior: float = 0.01
    temperature: float = 0.2
    offset: float = 2e-4
    least: float = 1e-6
    most: float = 0.8

    name = "dng"
    paper = "arXiv 2410.14398"
    equation = "p + (w - 1) P / (1 - P) (p_c - n)"
    cost = "one evaluation of the conditional rows per step, under the negative prompt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every != 1 or self.agree != -1:
            raise BadValue("dng follows the negative prompt from step to step: leave every and agree out")
        if not 0 < self.least <= self.prior <= self.most < 1 or self.temperature < 0 or self.offset < 0:
            raise BadValue("dng needs 0 < least <= prior <= most < 1, temperature and offset of at least 0, got "
                           f"{self.least}, {self.prior}, {self.most}, {self.temperature} and {self.offset}")

    def fits_tokens(self, timed: bool) -> None:
        Rule.fits_tokens(self, timed)

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        direction = self.away(branches)
        if direction is None:
            return pred
        if moves_on(step, state):
            state["log"] = self._followed(state, step, branches)
            state["last"] = (step, branches[COND].detach(), branches[self.perturbation].detach())
        likely = per_sample(state["log"].exp(), pred)
        odds = (likely / (1 - likely)).to(pred.dtype)
        return pred + (weight(self.scale, branches, step, state, pred) - 1) * odds * direction

    def _followed(self, state: dict[str, Any], step: Step, branches: Branches) -> torch.Tensor:
        """log P [batch] at the start of `step`."""
        cond = branches[COND]
        if "last" not in state:
            return torch.full((len(cond),), math.log(self.prior), dtype=torch.float64, device=cond.device)
        before, *preds = state["last"]
        log: torch.Tensor = state["log"]
        if before.index != step.index - 1:  # the steps between were not looked at
            return log
        spread = step.alpha**2 * variances(step)[before.index]  # s^2 in units of x_t
        told = likelier(before, step, preds[1], preds[0]).to(log)
        return (log + self.temperature * told + self.offset / (2 * spread)).clamp(math.log(self.least), math.log(self.most))
