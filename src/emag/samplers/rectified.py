"""Rectified-CFG++: guidance measured half a step ahead."""

from dataclasses import dataclass
from typing import Any

import torch

from ..core import COND, UNCOND
from ..errors import BadValue, Unsupported
from .base import GuidedModel, Solver


@dataclass(frozen=True)
class RectifiedCFGpp(Solver):
    """Rectified-CFG++, for flows: an Euler step along u + a (c~ - u~), guidance measured half a step ahead.

    u is the model's prediction at x; c~ and u~ are its conditional and unconditional ones half a step ahead, at x +
    (dt / 2) u; a = (scale - 1) (1 - sigma)^power (Alg. 1 of the paper). A combining rule beside it would guide twice, and is
    refused; weak rules go together. Raises `Unsupported` outside flow space or without "uncond".

    Defaults from the authors' page (lambda_max 3.5, gamma 1.5); their SD3 code has lambda_max 4.5, power 0 and a full
    step.

    Args:
        scale: at least 1, the paper's lambda_max + 1; 1 is off.
        power: the paper's gamma, at least 0; 0 is a constant weight.
        half_step: False looks a whole step ahead.

    >>> import emag
    >>> emag.RectifiedCFGpp(4.5).cost
    '2 evaluations where the weight is not 0'
    """

    scale: float = 4.5
    power: float = 1.5
    half_step: bool = True

    name = "rectified-cfg++"
    paper = "arXiv 2510.07631"
    equation = "x + dt (u + (w - 1) (1 - sigma)^g (c~ - u~))"
    cost = "2 evaluations where the weight is not 0"
    guides = True

    def __post_init__(self) -> None:
        if not 1 <= self.scale < float("inf"):
            raise BadValue(f"rectified-cfg++ scale must be at least 1 (1 is off), got {self.scale}")
        if not 0 <= self.power < float("inf"):
            raise BadValue(f"rectified-cfg++ power must be at least 0 (0 is a constant weight), got {self.power}")

    def check(self, model: GuidedModel) -> None:
        if model.space != "flow":
            raise Unsupported(f"rectified-cfg++ is for flow predictions, and this model predicts {model.space}; use CFG")

    def step(self, x: torch.Tensor, pred: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        sigma, after = model.path.sigmas[i], model.path.sigmas[i + 1]
        weight = (self.scale - 1) * (1 - sigma) ** self.power
        if weight:
            ahead = (after - sigma) * (0.5 if self.half_step else 1.0)
            pred = pred + weight * self._push(x + ahead * pred, sigma + ahead, model)
        return x + (after - sigma) * pred

    def _push(self, x: torch.Tensor, sigma: float, model: GuidedModel) -> torch.Tensor:
        branches = model.branches_at(x, 1 - sigma, sigma)
        if UNCOND not in branches:
            raise Unsupported("rectified-cfg++ needs the unconditional prediction, and this model gives none. "
                              "Use scale 1, or a model with a null condition.")
        return branches[COND] - branches[UNCOND]
