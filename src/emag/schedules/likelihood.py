"""Schedules that follow a run: how sure the last steps are of the condition, and when the push has passed its minimum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core import Branches, Schedule, Step
from ..errors import BadValue
from ..maths.predictions import to_x0
from .normed import both, epsilon_norm, norms

REFERENCE = 3.0
"""The scale that is to be reached at `onset`, and `SPEED` by which the run answers at `answer`: the authors' constants."""
SPEED = 10.0
SUREST = 3.0
"""The largest log posterior ratio, the authors'."""


@dataclass(frozen=True)
class FBG(Schedule):
    """Feedback guidance: guide as long as the steps so far look as if the condition had been missed.

    L / (L - (1 - pi)) + (base - 1), where L estimates, per sample, how much likelier the condition is at x than before
    any step: 1 at the start, and after each step log L loses tau / (2 s^2) (|x' - m_c|^2 - |x' - m_u|^2) and gains delta,
    which is negative. x' is where the step led, m_c and m_u are the means and s^2 the variance of the reverse transition
    from x under both predictions, all in units of the clean sample. So the scale rises unless the conditional prediction
    explains the steps.

    Args:
        scale: the largest value, above `base` or equal; 1 is off. 10 in the authors' code. None takes the rule's default.
        pi: how much is thought to come from the conditional model, in (0, 1); 0.95 in the code, 0.999 in its best runs.
        onset: share of the schedule, 1 at pure noise, at which the scale would be 3 if steps told nothing; sets delta.
            0.5 in the code, in [0, 1).
        answer: share of the schedule, in [0, 1), at which steps begin to tell; sets tau. 0.4 in the code.
        base: constant guidance beside it, at least 1; 1 is pure feedback guidance.

    >>> import emag
    >>> emag.CFG(emag.FBG(10.0)).scale.measures
    True
    """

    scale: float | None = 10.0
    pi: float = 0.95
    onset: float = 0.5
    answer: float = 0.4
    base: float = 1.0

    name = "fbg"
    paper = "arXiv 2506.06085"
    equation = "L / (L - (1 - pi)), log L <- log L - tau / (2 s^2) (|x' - m_c|^2 - |x' - m_u|^2) + delta"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.pi < 1 or not 0 <= self.onset < 1 or not 0 <= self.answer < 1 or self.base < 1:
            raise BadValue("fbg needs pi in (0, 1), onset and answer in [0, 1) and base of at least 1, got "
                           f"{self.pi}, {self.onset}, {self.answer} and {self.base}")
        if self.scale is not None and self.scale < self.base:
            raise BadValue(f"fbg scale is the largest value, so at least base={self.base:g}, got {self.scale:g}")

    @property
    def measures(self) -> bool:
        return True

    def known(self, step: Step) -> float | None:
        return self.base if self.scale == self.base else None

    def at(self, branches: Branches, step: Step, state: dict[str, Any]) -> float | torch.Tensor:
        value = self.known(step)
        if value is not None:
            return value
        cond, uncond = both(self.name, branches)
        if state.get("level") != step.index:  # a second evaluation of one level acts with what is there
            state["log"] = self._followed(state, step, len(cond)).to(cond.device)
            state["level"] = step.index
            state["last"] = (step, cond.detach(), uncond.detach())
        ratio: torch.Tensor = state["log"].exp()
        return ratio / (ratio - (1 - self.pi)) + self.base - 1

    def _followed(self, state: dict[str, Any], step: Step, rows: int) -> torch.Tensor:
        """log L [batch] at the start of `step`, from where the last one led."""
        if "last" not in state or state["level"] != step.index - 1:
            return torch.zeros(rows, dtype=torch.float64)
        delta, tau = self.rates(step)
        before, cond, uncond = state["last"]
        log: torch.Tensor = state["log"]
        told = tau * likelier(before, step, uncond, cond).to(log)
        # below the least the scale would pass its largest value, and then turn negative
        extra = self.strength - self.base + 1
        least = math.log((1 - self.pi) * extra / (extra - 1))
        return (log - told + delta).clamp(least, SUREST)

    def rates(self, step: Step) -> tuple[float, float]:
        """(delta, tau) for the run of `step`, from `onset` and `answer`."""
        delta = math.log((1 - self.pi) * REFERENCE / (REFERENCE - 1)) / ((1 - self.onset) * step.count)
        spread = [0.0, *reversed(variances(step))]  # from the clean end on, as the authors count
        at, share = int(self.answer * step.count), self.answer * step.count % 1
        found = (1 - share) * spread[at] + share * spread[min(at + 1, len(spread) - 1)]
        return delta, abs(2 * found / SPEED * delta)


def likelier(before: Step, step: Step, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """log p(x' | one) - log p(x' | other) of each sample, [batch]: how well two predictions of the step `before` explain
    where it led, (|x' - m_other|^2 - |x' - m_one|^2) / (2 s^2). Predictions in its space, [batch, ...]."""
    if not before.alpha and before.space == "epsilon":  # epsilon tells nothing where x holds nothing of the clean sample
        return torch.zeros(len(one), dtype=torch.float64, device=one.device)
    clean = [to_x0(p.double(), before.x.double(), before.alpha, before.sigma, before.space) for p in (one, other)]
    near, far = (norms(x).square() for x in off_mean(before, step, clean))
    return (far - near) / (2 * variances(step)[before.index])


def variances(step: Step) -> Sequence[float]:
    """s^2 of the reverse transition after each step but the last, in units of the clean sample.

    (k^2 - k'^2) k'^2 / k^2 with k = sigma / alpha; k'^2 where the step starts at pure noise.
    """
    found = []
    for here, after in zip(range(step.count - 1), range(1, step.count), strict=True):
        following = (step.sigmas[after] / step.alphas[after]) ** 2
        found.append((1 - share_kept(step, here)) * following)
    return found


def share_kept(step: Step, index: int) -> float:
    """(k' / k)^2, the share of x in the mean of the transition after step `index`; 0 from pure noise."""
    alphas, sigmas = step.alphas, step.sigmas
    return (sigmas[index + 1] * alphas[index] / (alphas[index + 1] * sigmas[index])) ** 2


def off_mean(before: Step, step: Step, clean: list[torch.Tensor]) -> list[torch.Tensor]:
    """x' - m for each clean estimate: m = share x + (1 - share) x0, all in units of the clean sample."""
    share = share_kept(step, before.index)
    # share x / alpha, without dividing by an alpha of 0
    scaled = step.sigmas[step.index] ** 2 * before.alpha / (step.alpha * before.sigma) ** 2
    here = step.x.double() / step.alpha - scaled * before.x.double()
    return [here - (1 - share) * x0 for x0 in clean]


@dataclass(frozen=True)
class Transition(Schedule):
    """Guidance from the transition point on: none until |c - u| has passed its first minimum, per sample.

    |c - u| is of epsilon predictions. Before it the result is the unconditional prediction (or beyond it, away from the
    condition), which keeps a run out of the basin of an image that was learnt by heart. The minimum is seen one step
    late, as in the port it is read off.

    Args:
        scale: w from there on, at least 0. None takes the rule's default.
        opposite: guidance the other way before it, at least 0; 0 is the unconditional prediction.

    >>> import emag
    >>> emag.CFG(emag.Transition(7.5)).scale.opposite
    0.0
    """

    opposite: float = 0.0

    name = "transition"
    paper = "arXiv 2411.16738"
    equation = "w once |c - u| has risen again, -opposite before"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.opposite < 0:
            raise BadValue(f"transition opposite must be at least 0, got {self.opposite}")

    @property
    def measures(self) -> bool:
        return True

    def at(self, branches: Branches, step: Step, state: dict[str, Any]) -> float | torch.Tensor:
        cond, _ = both(self.name, branches)
        gap = epsilon_norm(self.name, branches, step)  # None from pure noise, where epsilon is the same for both
        if gap is not None and state.get("level") != step.index:
            state["level"] = step.index
            past = state["past"] = [*state.get("past", ())[-2:], gap]
            if len(past) == 3:
                state["on"] = state.get("on", False) | ((past[0] > past[1]) & (past[1] < past[2]))
        on = torch.as_tensor(state.get("on", False), device=cond.device).expand(len(cond))
        return torch.where(on, self.strength, -self.opposite).double()
