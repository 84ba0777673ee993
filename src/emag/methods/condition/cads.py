"""Condition-annealed sampling."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from ...core import COND, Rule, Step
from ...errors import BadValue
from ...schedules import Scale, at_time, check_timed

CADSClock = Literal["time", "index"]


@dataclass(frozen=True)
class CADS(Rule):
    """Condition-annealed diffusion sampling: put noise on the condition, which fades out along the run.

    The condition y becomes

        h = sqrt(g) y + scale sqrt(1 - g) n
        y' = psi r + (1 - psi) h

    n is standard normal, and r is h brought back to y's mean and standard deviation (per sample). g(t) is 1 for
    t <= tau1, 0 for t >= tau2, and linear between; t is in [0, 1] and 1 is noise. So early steps see little of the
    condition, late steps all of it.

    Args:
        scale: s, size of the noise, at least 0, or a schedule of time. None takes the model's.
        tau1: time at which the noise is gone; at most tau2, and from 1 on it is off. None takes the model's.
        tau2: time from which on the condition is noise alone, as h; psi brings back its moments. None takes the
            model's.
        psi: share of r, the noised condition brought back to y's moments, in [0, 1]. None takes the model's.
        null: noise the unconditional condition too (the paper does not say; off by default).
        over: what t is. "time": of the training schedule. "index": 1 - i/N by the index i of the step, which no shift
            of the schedule changes.
        pooled: noise vectors [batch, width] beside a sequence too.

    >>> import emag
    >>> emag.CADS(0.25, tau1=0.6, tau2=0.9, psi=1).kind
    'condition'
    >>> emag.CADS(0.25, tau1=1, tau2=1).neutral  # no noise is left at any step
    True
    """

    scale: Scale | None = None
    tau1: float | None = None
    tau2: float | None = None
    psi: float | None = None
    null: bool = False
    over: CADSClock = "time"
    pooled: bool = True

    name = "cads"
    paper = "arXiv 2310.17347"
    equation = "psi r + (1 - psi) (sqrt(g) y + s sqrt(1 - g) n)"
    kind = "condition"

    def __post_init__(self) -> None:
        if isinstance(self.scale, (int, float)) and self.scale < 0:
            raise BadValue(f"cads scale must be at least 0, got {self.scale}")
        check_timed(self.name, self.scale, "noises the condition before any evaluation")
        if self.tau1 is not None and self.tau2 is not None and not self.tau1 <= self.tau2:
            raise BadValue(f"cads needs tau1 <= tau2 (noise fades from tau2 down to tau1), got {self.tau1} > {self.tau2}")
        if self.psi is not None and not 0 <= self.psi <= 1:
            raise BadValue(f"cads psi must lie in [0, 1], got {self.psi}")

    @property
    def neutral(self) -> bool:
        return self.tau1 is not None and self.tau1 >= 1

    def condition(self, cond: dict[str, torch.Tensor], step: Step) -> dict[str, torch.Tensor]:
        assert self.scale is not None and self.tau1 is not None and self.tau2 is not None and self.psi is not None
        gamma = ramp(CLOCKS[self.over](step), self.tau1, self.tau2)
        if gamma == 1 or (step.branch != COND and not self.null):
            return cond
        scale = at_time(self.scale, step)
        kept = () if self.pooled else vectors(cond)
        return {name: y if name in kept
                else self._noised(y, gamma, scale, step.streams.normal(f"cads/{step.branch}/{name}", y))
                for name, y in cond.items()}

    def _noised(self, y: torch.Tensor, gamma: float, scale: float, noise: torch.Tensor) -> torch.Tensor:
        assert self.psi is not None
        clean = y.float()
        # the condition diffused as x is, by shares whose squares add up to 1 (at scale 1)
        mixed = math.sqrt(gamma) * clean + scale * math.sqrt(1 - gamma) * noise
        mean, std = _moments(mixed)
        target_mean, target_std = _moments(clean)
        # brought back to the mean and spread of the true condition, whatever the noise made of them
        rescaled = (mixed - mean) / std.clamp(min=1e-12) * target_std + target_mean
        return (self.psi * rescaled + (1 - self.psi) * mixed).to(y.dtype)


CLOCKS: dict[CADSClock, Callable[[Step], float]] = {"time": lambda step: step.time,
                                                "index": lambda step: 1 - step.index / step.count}


def vectors(cond: dict[str, torch.Tensor]) -> tuple[str, ...]:
    """Names of the condition tensors [batch, width] that stand beside a sequence [batch, tokens, width]; else none."""
    flat = tuple(name for name, y in cond.items() if y.ndim == 2)
    return flat if len(flat) < len(cond) else ()


def ramp(t: float, tau1: float, tau2: float) -> float:
    """Share of the true condition at time t: 1 below tau1, 0 from tau2 on, linear between."""
    if t <= tau1:
        return 1.0
    return 0.0 if t >= tau2 else (tau2 - t) / (tau2 - tau1)


def _moments(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dims = tuple(range(1, y.ndim))
    return y.mean(dims, keepdim=True), y.std(dims, keepdim=True, correction=0)
