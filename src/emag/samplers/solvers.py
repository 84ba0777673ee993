"""First-order steps between two levels: the probability-flow ODE and the reverse SDE."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import Unsupported
from ..maths.predictions import convert, from_x0, to_x0
from .base import Model, Solver
from .particles import surplus
from .path import Path

Powers = tuple[tuple[str, float], ...]
"""The exponents b of a target density prod q_b^b, by branch."""


def to_epsilon(p: torch.Tensor, x: torch.Tensor, alpha: float, sigma: float, space: str) -> torch.Tensor:
    """Noise implied by prediction `p` at `x`; same shape. Raises `BadValue` for an x0 prediction where sigma is 0."""
    if space in ("flow", "v"):
        return (x if space == "flow" else sigma * x) + alpha * p
    return p if space == "epsilon" else from_x0(p, x, alpha, sigma, "epsilon")


def advance(x: torch.Tensor, pred: torch.Tensor, path: Path, i: int, j: int, space: str) -> torch.Tensor:
    """x at level j, from x at level i, the prediction held fixed: alpha_j x0 + sigma_j epsilon, arXiv 2010.02502 Eq. 12.

    j < i inverts. Exactly x + (sigma_j - sigma_i) u in flow space. Raises `BadValue` where `pred` does not tell x0 (epsilon
    predictions at alpha 0) or epsilon (x0 predictions at sigma 0).
    """
    alpha, sigma = path.at(j)
    if space == "flow":
        return x + (sigma - path.sigmas[i]) * pred
    return alpha * to_x0(pred, x, *path.at(i), space) + sigma * to_epsilon(pred, x, *path.at(i), space)


@dataclass(frozen=True)
class Euler(Solver):
    """The deterministic step: DDIM (arXiv 2010.02502), which is Euler in flow space and in sigma / alpha."""

    name = "euler"
    paper = "arXiv 2010.02502"
    equation = "alpha' x0 + sigma' epsilon"

    def step(self, x: torch.Tensor, pred: torch.Tensor, i: int, model: Model, state: dict[str, Any]) -> torch.Tensor:
        return advance(x, pred, model.path, i, i + 1, model.space)


@dataclass(frozen=True)
class ReverseSDE(Solver):
    """One step of the reverse SDE, on any path, with fresh noise n per sample (arXiv 2011.13456 Eq. 6).

    In z = x / alpha it is dz = 2 k |dk| s + sqrt(2 k |dk|) dW with k = sigma / alpha and s the score of z. The step is its
    exact solution for a fixed x0: alpha' x0 + sigma' (r epsilon + sqrt(1 - r^2) n), r = k' / k.

    powers: (branch, b) pairs: follow sum_b b s_b of the branches that the model's call evaluated, the drift of prod q_b^b,
    in place of its own prediction. Raises `Unsupported` where a branch is missing.
    """

    powers: Powers | None = None

    name = "reverse-sde"
    paper = "arXiv 2011.13456"
    equation = "alpha' x0 + sigma' (r epsilon + sqrt(1 - r^2) n)"
    stochastic = True

    def step(self, x: torch.Tensor, pred: torch.Tensor, i: int, model: Model, state: dict[str, Any]) -> torch.Tensor:
        (alpha, sigma), here = model.path.at(i + 1), (x, *model.path.at(i), model.space)
        if self.powers is not None:
            pred = combined(model.latest, self.powers, *here)
        x0 = alpha * to_x0(pred, *here)
        if sigma == 0:
            return x0
        left = model.path.shrink(i, i + 1)
        noise = model.noise(f"{self.name}/{i}", x).to(x)
        return x0 + sigma * (left * to_epsilon(pred, *here) + math.sqrt(1 - left**2) * noise)


def combined(branches: Mapping[Any, torch.Tensor], powers: Powers, x: torch.Tensor, alpha: float, sigma: float,
             space: str) -> torch.Tensor:
    """The prediction in `space` whose score is sum_b b s_b, from predictions in `space`."""
    pick(branches, powers)
    total = torch.stack([b * branches[name] for name, b in powers]).sum(0)
    over = surplus([b for _, b in powers])
    # scores add with any b, predictions only where the b sum to 1: what is over comes off as the prediction of score 0
    return total if over == 0 else total - over * convert(torch.zeros_like(x), x, alpha, sigma, "epsilon", space)


def pick(branches: Mapping[Any, torch.Tensor], powers: Powers) -> list[torch.Tensor]:
    """The branches that `powers` names. Raises `Unsupported` where one is missing."""
    missing = [name for name, _ in powers if name not in branches]
    if missing:
        raise Unsupported(f"the step needs the predictions {', '.join(missing)}, and the model evaluated "
                          f"{', '.join(map(str, branches)) or 'none'}. Give it a rule that evaluates them, such as CFG.")
    return [branches[name] for name, _ in powers]
