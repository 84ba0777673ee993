"""Predictor-corrector guidance: Langevin steps after the sampler's."""

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadValue
from .base import Corrector, GuidedModel, guided_prediction
from .solvers import to_epsilon


@dataclass(frozen=True)
class PCG(Corrector):
    """Predictor-corrector guidance: after each step, Langevin steps on p^(1 - w) p(.|c)^w.

    x <- x + (h / 2) s + sqrt(h) n with s = (1 - w) s_u + w s_c at the new level, n fresh noise per sample (Alg. 1 of
    the paper). The predictor is the model and solver it is used with: the paper's is a deterministic step on an
    unguided model. No steps at sigma 0.

    steps 1 and scale 5 (CFG at 3) are untested defaults: the paper's are not known. Raises `Unsupported` at scales
    other than 1 where the model has no unconditional prediction.

    Args:
        steps: K, Langevin steps after each step, a whole number of at least 0; 0 is off.
        scale: w, the paper's gamma', at least 0; one step at 2 w - 1 equals CFG at w on the reverse SDE, to first
            order.
        step_size: h in units of sigma'^2 (1 - (k' / k)^2), k = sigma / alpha, above 0; 1 is that equivalence, h =
            beta dt for short steps.

    >>> import emag
    >>> emag.PCG(steps=2, scale=5.0).cost
    '2 evaluations per Langevin step'
    """

    steps: int = 1
    scale: float = 5.0
    step_size: float = 1.0

    name = "pcg"
    paper = "arXiv 2408.09000"
    equation = "x + (h/2) ((1 - w) s_u + w s_c) + sqrt(h) n"
    cost = "2 evaluations per Langevin step"

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 0:
            raise BadValue(f"pcg steps must be a whole number of at least 0 (0 is off), got {self.steps}")
        if not 0 <= self.scale < float("inf"):
            raise BadValue(f"pcg scale must be at least 0 (1 is the conditional distribution), got {self.scale}")
        if not 0 < self.step_size < float("inf"):
            raise BadValue(f"pcg step_size must be above 0, got {self.step_size}")

    def after(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        alpha, sigma = model.path.at(i + 1)
        h = self.step_size * sigma**2 * (1 - model.path.shrink(i, i + 1) ** 2)
        for k in range(self.steps if sigma else 0):
            pred = guided_prediction(model.branches(x, i + 1), self.scale, self.name)
            score = to_epsilon(pred, x, alpha, sigma, model.space) / -sigma
            x = langevin(x, score, h, model.noise(f"{self.name}/{i}/{k}", x).to(x))
        return x


def langevin(x: torch.Tensor, score: torch.Tensor, h: float, noise: torch.Tensor) -> torch.Tensor:
    """One unadjusted Langevin step of size h, on x [batch, ...]."""
    return x + h / 2 * score + h**0.5 * noise
