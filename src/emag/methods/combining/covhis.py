"""CovHiS: guidance without the directions that its own past went in most."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Rule, Step
from ...errors import BadValue
from ...maths.vectors import norm
from ...schedules import Scale, check_scale, weight
from ..common.history import moves_on, spared, summed

TINY = 1e-8


@dataclass(frozen=True)
class CovHiS(Rule):
    """CovHiS, first stage: CFG whose push leaves out what the last steps pushed most, its length bounded.

    D = p - u; m = D + beta m_before; Q are the first `rank` right singular vectors of the last `window` D, those of
    earlier steps, each sample's own. d is m without (1 - eta) of its part in Q. With q = |w d| / |c| the result is
    u + w d min(sqrt(gamma q), gamma) / q: pushes longer than gamma |c| are cut to that, shorter ones grow towards it.

    All of it is in the space where the sampler's path is straight: epsilon, or the velocity of flows. Window, rank and the
    three numbers are unconfirmed, and all defaults untested; whether the step's own D is among the
    window's as well.

    Args:
        scale: w, at least 0, or a schedule. None takes the model's default. It is never the plain network, since the
            length is set by gamma.
        window: how many earlier D are kept, at least 1; each is as large as the latents.
        rank: how many directions are taken out, at least 1, at most `window`.
        momentum: beta, in (-1, 1); below 0 subtracts what the steps before pushed.
        eta: share of the part in Q that stays, in [0, 1]; 1 leaves Q out of it.
        gamma: length of the push in units of |c|, above 0.

    >>> import emag
    >>> emag.CovHiS(7.5).space
    'path'
    """

    scale: Scale | None = None
    window: int = 4
    rank: int = 1
    momentum: float = -0.5
    eta: float = 0.0
    gamma: float = 0.2

    name = "covhis"
    paper = "CovHiS, ACCV 2026"
    equation = "u + w d min(sqrt(g q), g) / q, d = (I - Q Q^T) m + eta Q Q^T m, q = |w d| / |c|"
    kind = "combining"
    space = "path"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        if not 1 <= self.rank <= self.window:
            raise BadValue(f"covhis needs 1 <= rank <= window, got {self.rank} and {self.window}")
        if not -1 < self.momentum < 1 or not 0 <= self.eta <= 1 or not self.gamma > 0:
            raise BadValue("covhis needs momentum in (-1, 1), eta in [0, 1] and gamma above 0, got "
                           f"{self.momentum}, {self.eta}, {self.gamma}")

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        gap = (pred - branches[UNCOND]).double()
        alone, new = spared(branches), moves_on(step, state)
        total = summed(gap, self.momentum, alone, new, state)
        if new:
            state["past"] = [torch.where(alone, 0.0, one) for one in [*state.get("past", []), *state.pop("last", [])]]
            del state["past"][:-self.window]
            state["last"] = [gap]
        push = total - (1 - self.eta) * _within(total, state["past"], self.rank)
        push = weight(self.scale, branches, step, state, push) * push
        share = norm(push) / (norm(branches[COND].double()) + TINY)
        wanted = (self.gamma * share).sqrt().clamp(max=self.gamma)
        return branches[UNCOND] + (push * wanted / (share + TINY)).to(pred.dtype)


def _within(x: torch.Tensor, past: list[torch.Tensor], rank: int) -> torch.Tensor:
    """The part of each sample of x [batch, ...] in the space of the first right singular vectors of its past ones."""
    if not past:
        return torch.zeros_like(x)
    rows = torch.stack([one.flatten(1) for one in past], 1)  # [batch, steps, numbers]
    # right singular vectors by the small matrix of the steps: R R^T = U S^2 U^T, so Q = R^T U / S
    values, found = torch.linalg.eigh(rows @ rows.mT)
    values, found = values[:, -rank:], found[..., -rank:]
    kept = values > 1e-12 * values.amax(1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    share = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    along = found.mT @ (rows @ x.flatten(1)[..., None])
    return (rows.mT @ (found @ (share[..., None] * along)))[..., 0].view_as(x)
