"""The first-order deterministic step between two levels: the probability-flow ODE."""

from dataclasses import dataclass
from typing import Any

import torch

from ..maths.predictions import Space, from_x0, to_x0
from .base import GuidedModel, Solver
from .path import Path


def to_epsilon(p: torch.Tensor, x: torch.Tensor, alpha: float, sigma: float, space: Space) -> torch.Tensor:
    """Noise implied by prediction `p` at `x`; same shape. Raises `BadValue` for an x0 prediction where sigma is 0."""
    if space in ("flow", "v"):
        return (x if space == "flow" else sigma * x) + alpha * p
    return p if space == "epsilon" else from_x0(p, x, alpha, sigma, "epsilon")


def advance(x: torch.Tensor, pred: torch.Tensor, path: Path, i: int, j: int, space: Space) -> torch.Tensor:
    """x [batch, ...] at level j, from x at level i, the prediction held fixed: alpha_j x0 + sigma_j epsilon.

    arXiv 2010.02502 Eq. 12. j < i inverts. Exactly x + (sigma_j - sigma_i) u in flow space. Raises `BadValue` where `pred`
    does not tell x0 (epsilon predictions at alpha 0) or epsilon (x0 predictions at sigma 0).
    """
    alpha, sigma = path.at(j)
    if space == "flow":
        return x + (sigma - path.sigmas[i]) * pred
    return alpha * to_x0(pred, x, *path.at(i), space) + sigma * to_epsilon(pred, x, *path.at(i), space)


@dataclass(frozen=True)
class Euler(Solver):
    """The deterministic first-order step: DDIM, which is Euler in flow space and in sigma / alpha.

    One evaluation a step, and the solver that `emag.sample` takes by itself. Exact for scales such as `CFGpp`.

    >>> import emag
    >>> emag.Euler().first_order, emag.UniPC().first_order
    (True, False)
    """

    name = "euler"
    paper = "arXiv 2010.02502"
    equation = "alpha' x0 + sigma' epsilon"
    first_order = True

    def step(self, x: torch.Tensor, pred: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        return advance(x, pred, model.path, i, i + 1, model.space)
