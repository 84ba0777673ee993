"""Schedules that stand for a sampler's own step: denoise with the guided estimate, re-noise with the unconditional one."""

from dataclasses import dataclass

from ..core import Schedule, Step


@dataclass(frozen=True)
class CFGpp(Schedule):
    """CFG++ as a scale: a first-order step under CFG at this scale is the step of CFG++.

    CFG++ denoises with the guided estimate and noises again with the unconditional one: it takes x' = alpha' x0(g) +
    sigma' epsilon(u), g = u + lambda (c - u). With k = sigma / alpha that is plain DDIM (or Euler on a flow) under w
    = lambda k / (k - k'), which is lambda sigma (1 - sigma') / (sigma - sigma') on a flow. The w it gives grows with
    the number of steps. On the last step w = lambda, and so it is where the sampler does not move (k' = k).

    Exact for first-order deterministic samplers, one evaluation a step (DDIM with eta 0 and no clipping, Euler,
    DPM-Solver of order 1). Pipelines with another scheduler and our own solvers but `Euler` are refused, and a loop
    of yours must be such a one.

    Args:
        scale: lambda, not a w, at least 0: 0 is unconditional, 0.6 is about CFG at 7.5 (the authors' table runs from
            0 to 1 for w from 1 to 12.5). None takes the rule's default.

    >>> import emag
    >>> emag.CFG(emag.CFGpp(0.6)).scale.first_order
    True
    """

    scale: float | None = 0.6

    name = "cfg++"
    paper = "arXiv 2406.08070"
    equation = "lambda k / (k - k'), k = sigma / alpha"

    @property
    def first_order(self) -> bool:
        return True

    def known(self, step: Step) -> float | None:
        return self.strength * renoised(step)


def renoised(step: Step) -> float:
    """k / (k - k'), k = sigma / alpha: what a scale grows by to make a step re-noise with u; 1 where k' >= k."""
    alpha, sigma = step.next
    fall = step.sigma * alpha - sigma * step.alpha  # (k - k') alpha alpha', finite at alpha = 0
    return step.sigma * alpha / fall if fall > 0 else 1.0
