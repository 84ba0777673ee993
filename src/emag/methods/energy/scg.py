"""Stochastic control guidance: of several noises for a step, the one whose outcome a score likes best."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...core import Access, Branches, EstimateOf, Look, Rule, RunStart, Score, Step
from ...errors import BadValue, NoEffect
from ...maths.energies import label_of, posterior_spread, towards
from ...maths.vectors import per_sample
from .ahead import check_ahead
from .numbers import EXAMPLE, accessed, check_score_field, scored, sighted


@dataclass(frozen=True)
class SCG(Rule):
    """Stochastic control guidance: each step draws n noises, and keeps the sample whose clean estimate scores best.

    The step is that of DDPM (eta 1), x' = alpha' x0 + sqrt(sigma'^2 - s^2) epsilon + s z with s^2 = eta^2 sigma'^2 / sigma^2
    (sigma^2 - (alpha / alpha')^2 sigma'^2). Each of n candidates x' is evaluated at its own level, its clean estimate
    decoded and scored; the best goes on, for each image apart. No gradient is taken, so any score will do: a program, too.
    The published code tells the network the time of x_t, not of x'; here it is that of x'.

    The sampler is told the x0 along which its deterministic step ends at that sample: first-order samplers without noise of
    their own (DDIM with eta 0, Euler) only, and others are refused. The last step adds no noise and searches nothing. Rules
    before it, CFG among them, make the estimate: name it last. Each step waits for the device, to look at the scores.

    Args:
        score: a function, or the name of a score, as in `energy`; it needs no gradient.
        n: candidates a step, at least 1; 16 is the authors'. 1 is the stochastic sampler itself, with the same noise.
        eta: how much of DDPM's noise, in [0, 1]; 0 is off, as there is nothing to choose from.
        of: whose x0 is scored: "guided", what the rules before give there; "cond" or "uncond", a clean prediction.
        interval: first and last share of the run in which it searches; elsewhere a step draws one noise. (0.25, 1) is the
            authors': below 750 of 1000.
        decoder: another autoencoder for the images that are scored, as in `energy`.

    >>> import emag
    >>> emag.SCG("colour:0.9:0.1:0.1", n=4).looks_further
    True
    """

    score: str | Score | None = None
    n: int = 16
    eta: float = 1.0
    of: EstimateOf = "guided"
    interval: tuple[float, ...] = (0.25, 1.0)
    decoder: str | Callable[..., Any] | None = None

    name = "scg"
    paper = "arXiv 2402.14285"
    equation = "argmax_j score(decode(x0(x'_j))), x'_j = alpha' x0 + sqrt(sigma'^2 - s^2) epsilon + s z_j"
    kind = "energy"
    space = "x0"
    cost = "n evaluations, n decodings and n scores in each step of the interval but the last"
    required = {"score": f"scg={EXAMPLE}"}

    def __post_init__(self) -> None:
        check_score_field(self.score, self.name)
        if self.n < 1:
            raise BadValue(f"scg n must be at least 1, got {self.n}")
        if not 0 <= self.eta <= 1:
            raise BadValue(f"scg eta must lie in [0, 1], got {self.eta}")
        if len(self.interval) != 2 or not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise BadValue(f"scg interval is two shares of the run, 0 <= first <= last <= 1, got {self.interval}")

    @property
    def neutral(self) -> bool:
        return self.eta == 0

    @property
    def first_order(self) -> bool:
        return True

    @property
    def looks_further(self) -> bool:
        return True

    @property
    def scores(self) -> tuple[str | Score | None, ...]:
        return (self.score,)

    def reads_null(self, step: Step) -> bool:
        return self.of == "uncond"

    def searches(self, step: Step) -> bool:
        """True where there is something to choose from, and a level at which to look at it."""
        low, high = self.interval
        return self.n > 1 and step.index + 1 < step.count and low <= step.progress <= high

    def looks(self, step: Step) -> tuple[Look, ...]:
        return (Look(self.of, False, 1),) * self.n if self.searches(step) else ()

    def fits_run(self, start: RunStart) -> None:
        if self.n > 1:
            check_ahead(self.name, start, lambda step: step.index + self.searches(step))
        if self.n > 1 and not any(map(self.searches, start.steps)):
            raise BadValue(f"scg searches at no step of this run: interval {self.interval} holds none before the last")

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        here, after = (step.alpha, step.sigma), step.next
        spread = self.eta * posterior_spread(here, after)
        if step.index + 1 == step.count or spread == 0:  # some schedulers end a little above sigma 0
            self._check_effect(state)
            return pred
        epsilon = (step.x - step.alpha * pred) / step.sigma
        mean = after[0] * pred + math.sqrt(max(after[1] ** 2 - spread**2, 0.0)) * epsilon
        if not self.searches(step):
            return towards(mean + spread * _noise(step, 0), step.x, here, after)
        access, score = accessed(step, self.score, self.name)
        return towards(self._best(mean, spread, access, score, step, state), step.x, here, after)

    def _best(self, mean: torch.Tensor, spread: float, access: Access, score: Score, step: Step,
              state: dict[str, Any]) -> torch.Tensor:
        """Of n samples of the next level [batch, ...], that of the highest score, the first of equals; each image apart."""
        best = found = None
        for at in range(self.n):
            tried = mean + spread * _noise(step, at)
            with torch.no_grad():
                images, function = sighted(access, score, access.estimate(tried, self.of, ahead=1))
                value = scored(function, images, label_of(self.score), step)
            if best is None or found is None:
                best, found = tried, value
                continue
            state["chose"] = state.get("chose", torch.zeros_like(value, dtype=torch.bool)) | (value != found)
            best, found = torch.where(per_sample(value > found, best), tried, best), torch.maximum(found, value)
        assert best is not None
        return best

    def _check_effect(self, state: dict[str, Any]) -> None:
        chose = state.get("chose")
        if chose is not None and not bool(chose.any()):
            raise NoEffect(f"the score {label_of(self.score)} was the same for all {self.n} candidates of every step and "
                           "image: there was nothing to choose by")


def _noise(step: Step, at: int) -> torch.Tensor:
    """Candidate `at`'s noise: the same whatever n is."""
    return step.streams.normal(f"scg/{at}", step.x).to(step.x)
