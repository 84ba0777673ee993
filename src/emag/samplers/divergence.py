"""Flow-divergence sampling: before a step, x moved to where the flow spreads less."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadValue, Unsupported
from ..maths.vectors import per_sample
from .base import Corrector, GuidedModel, guided_prediction


@dataclass(frozen=True)
class FDS(Corrector):
    """Flow-divergence sampler, for flows: a random move before a step is kept where the flow spreads less.

    div is the divergence per dimension of the CFG velocity towards data, -v, by one Hutchinson probe (random signs,
    the same for both): probe . grad(v . probe). z' = z + size n is kept where div(z') < div(z) and div(z') > -1 /
    sigma, below which no posterior mean can be; n is normal, size = scale (1 + cos(pi (1 - sigma))) / 2. A sample
    keeps an n that helped for its next step, and draws another else. Each sample decides for itself. Needs a network
    that gradients go through.

    Args:
        scale: size of the move in pure noise, at least 0; 0 is off. The authors' is unconfirmed, 0.1 an untested
            default.
        until: it acts at levels above this sigma, in [0, 1].
        cfg: scale w of the CFG velocity whose divergence it is, at least 0; that of the model's own guidance.

    >>> import emag
    >>> emag.FDS(0.05, cfg=3.0).until
    0.5
    """

    scale: float = 0.1
    until: float = 0.5
    cfg: float = 1.0

    name = "fds"
    paper = "arXiv 2604.04646"
    equation = "z + size n where div(z + size n) < div(z)"
    cost = "2 evaluations of each branch with gradients, at noisy steps"

    def __post_init__(self) -> None:
        if self.scale < 0 or not 0 <= self.until <= 1 or self.cfg < 0:
            raise BadValue(f"fds scale and cfg are at least 0, until in [0, 1], got {self.scale}, {self.cfg}, {self.until}")

    def check(self, model: GuidedModel) -> None:
        if model.space != "flow":
            raise Unsupported(f"fds is for flow predictions, and this model predicts {model.space}")

    def before(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        sigma = model.path.sigmas[i]
        if self.scale == 0 or sigma <= self.until:
            return x
        fresh = model.noise(f"{self.name}/{i}", x).to(x)
        move = torch.where(state["helped"], state["move"], fresh) if state else fresh
        moved = x + self.scale * (1 + math.cos(math.pi * (1 - sigma))) / 2 * move
        probe = model.noise(f"{self.name}/{i}/probe", x).to(x).sign()
        here, there = (self._spread(y, probe, i, model) for y in (x, moved))
        helped = per_sample((there < here) & (there > -1 / sigma), x)
        state |= {"helped": helped, "move": move}
        return torch.where(helped, moved, x)

    def _spread(self, x: torch.Tensor, probe: torch.Tensor, i: int, model: GuidedModel) -> torch.Tensor:
        """div of each sample, [batch]."""
        with torch.enable_grad():
            y = x.detach().clone().requires_grad_()
            along = (guided_prediction(model.branches(y, i), self.cfg, self.name) * probe).sum()
            if not along.requires_grad:
                raise Unsupported("fds needs gradients, and this model's predictions have none")
            slope, = torch.autograd.grad(along, y)
        return -(slope * probe).flatten(1).mean(1)
