"""UniPC: a multistep solver whose corrector costs no evaluation."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadValue
from ..maths.predictions import to_x0
from .base import GuidedModel, Solver
from .path import Path

Past = list[tuple[int, torch.Tensor]]
"""Levels and x0 predictions of the latest steps, newest last."""


@dataclass(frozen=True)
class UniPC(Solver):
    """Unified predictor-corrector: a multistep solver whose corrector costs no evaluation.

    x0 predictions, B2(h) = e^h - 1, lower orders at both ends. The predictor is of order p, the corrector of order p
    + 1. What correctors did to x since the last step is kept on top of the solver's own correction.

    Args:
        order: p, 1 to 3; 2 as in diffusers.

    >>> import emag
    >>> emag.UniPC(order=3).cost
    'none'
    """

    order: int = 2

    name = "unipc"
    paper = "arXiv 2302.04867"
    equation = "(sigma'/sigma) x - alpha' (e^-h - 1) (m0 + sum_k rho_k (m_k - m0) / r_k)"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise BadValue(f"{self.name} order must be 1, 2 or 3, got {self.order}")

    def step(self, x: torch.Tensor, pred: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        x = self.correct(x, pred, i, model, state)
        past = state["past"] = self.revise(state["past"], model.path)
        state["order"] = min(self.order, len(past), len(model.path) - i)
        state["x"] = x
        state["predicted"] = bh2(x, past, model.path, i + 1, state["order"])
        return state["predicted"]

    def correct(self, x: torch.Tensor, pred: torch.Tensor, i: int, model: GuidedModel,
                state: dict[str, Any]) -> torch.Tensor:
        """x at level i, corrected with the prediction made at it, which joins the past."""
        new = i, to_x0(pred, x, *model.path.at(i), model.space)
        past = state.get("past", [])
        if past:
            moved = x - state["predicted"]
            x = bh2(state["x"], past, model.path, i, state["order"], new) + moved
        state["past"] = [*past, new][-self.kept:]
        return x

    @property
    def kept(self) -> int:
        """Number of predictions kept."""
        return self.order

    def revise(self, past: Past, path: Path) -> Past:
        """The past that the step from its last level uses."""
        return past


def bh2(x: torch.Tensor, past: Past, path: Path, j: int, order: int,
        new: tuple[int, torch.Tensor] | None = None) -> torch.Tensor:
    """x [batch, ...] at level j, from the newest level of `past`: the predictor; with `new`, at level j, the corrector."""
    (s, m0), (alpha, sigma) = past[-1], path.at(j)
    h = log_snr(path, j) - log_snr(path, s)
    points = [*reversed(past[-order:-1]), *([new] if new else [])]
    r = [(log_snr(path, k) - log_snr(path, s)) / h for k, _ in points]
    output = m0
    for rho, r_k, (_, m) in zip(weights(r, h), r, points):
        output = output + rho / r_k * (m - m0)
    return sigma / path.sigmas[s] * x - alpha * (path.shrink(s, j) - 1) * output


def weights(r: list[float], h: float) -> list[float]:
    """rho with sum_k rho_k r_k^n = b_n for n = 0, 1, ..., one equation per r; 1/2 where there is one."""
    if len(r) <= 1:
        return [0.5] * len(r)
    phi, b = math.expm1(-h) / -h - 1, []
    for n in range(1, len(r) + 1):
        b.append(phi * math.factorial(n) / math.expm1(-h))
        phi = phi / -h - 1 / math.factorial(n + 1)
    powers = torch.tensor([[r_k**n for r_k in r] for n in range(len(r))], dtype=torch.float64)
    return torch.linalg.solve(powers, torch.tensor(b, dtype=torch.float64)).tolist()


def log_snr(path: Path, i: int) -> float:
    """lambda = log(alpha / sigma) of level i, infinite at sigma 0. Pure noise counts as alpha = 1e-6, as in diffusers."""
    alpha, sigma = path.at(i)
    return math.log(max(alpha, 1e-6) / sigma) if sigma else math.inf
