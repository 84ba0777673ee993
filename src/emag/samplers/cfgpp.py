"""CFG++ on solvers of its own: denoise with the guided estimate, keep the noise of the unconditional one.

In z = x / alpha, with k = sigma / alpha, D(c) and D(u) the two estimates of x0, and D(g) = D(u) + lambda (D(c) - D(u)),
a step from k to k' = e^-h k is the plain one of its solver with one change: what it subtracts to get at the noise is D(u),
not D(g).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..core import COND, UNCOND
from ..errors import BadValue, Unsupported
from ..maths.predictions import to_x0
from .base import GuidedModel, Solver
from .path import Path
from .unipc import log_snr


@dataclass(frozen=True)
class _CFGppSolver(Solver):
    """What all three share: lambda, whose work they are, and that they read the unconditional prediction."""

    scale: float = 0.6

    paper = "arXiv 2406.08070"
    guides = True

    def __post_init__(self) -> None:
        check_lambda(self.name, self.scale)

    @property
    def conditions(self) -> tuple[str, ...]:
        return (UNCOND,)


@dataclass(frozen=True)
class _Ancestral(_CFGppSolver):
    """A step that may go further down, and be brought up again by noise."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eta(self.name, self.eta)

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.eta > 0


@dataclass(frozen=True)
class CFGppEuler(_Ancestral):
    """CFG++ on Euler's step, also ancestral: x' = alpha' D(g) + sigma' epsilon(u).

    With eta 0 it is `CFGpp` as a scale, one evaluation pair a step. With eta above 0 the step goes down to a lower level and
    fresh noise brings it back up, drawn for each sample on its own. Weak rules act through the conditional prediction; a
    combining rule beside it would guide twice, and is refused. Raises `Unsupported` without "uncond".

    Args:
        scale: lambda, at least 0: 0 is unconditional; 0.6 is about CFG at 7.5 in the authors' table.
        eta: share of ancestral noise, 0 to 1; 0 is deterministic, 1 is Euler a.

    >>> import emag
    >>> emag.CFGppEuler(0.6, eta=1.0).stochastic
    True
    """

    name = "cfg++-euler"
    equation = "alpha' D(g) + sigma' (x - alpha D(u)) / sigma"

    def step(self, x: torch.Tensor, pred: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        guided, uncond = estimates(pred, x, i, model, self.scale, self.name)
        share, up = ancestral(model.path, i, self.eta)
        return with_noise(descend(x, guided, uncond, model.path, i, share), up, i, model, self.name)


@dataclass(frozen=True)
class CFGpp2M(_CFGppSolver):
    """CFG++ on DPM-Solver++ 2M: second order from the step before, one evaluation pair a step.

    The first step, and one to sigma 0, are Euler's. Weak rules act through the conditional prediction; a combining rule
    beside it is refused. Raises `Unsupported` without "uncond".

    Args:
        scale: lambda, at least 0: 0 is unconditional; 0.6 is about CFG at 7.5 in the authors' table.
        difference: whose change since the last step's D(u) gives the second order. "guided" is the authors' code for
            Stable Diffusion 1.5, "uncond" their code for XL; the paper does not say.

    >>> import emag
    >>> emag.CFGpp2M().difference
    'guided'
    """

    difference: Literal["guided", "uncond"] = "guided"

    name = "cfg++-2m"
    equation = "D(g) - e^-h D(u) + (1 - e^-h) (D(g) - D(u)_before) / 2r + e^-h z"

    def step(self, x: torch.Tensor, pred: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        guided, uncond = estimates(pred, x, i, model, self.scale, self.name)
        before, state["before"] = state.get("before"), uncond
        keep, (alpha, sigma) = model.path.shrink(i, i + 1), model.path.at(i + 1)
        out = descend(x, guided, uncond, model.path, i)
        if before is None or sigma == 0:
            return out
        newest = guided if self.difference == "guided" else uncond
        return out + alpha * (1 - keep) / (2 * step_ratio(model.path, i)) * (newest - before)


@dataclass(frozen=True)
class CFGpp2S(_Ancestral):
    """CFG++ on DPM-Solver++ 2S, also ancestral: second order from a point half way, two evaluation pairs a step.

    The way there is unconditional; the step uses the estimates found there. From pure noise and to sigma 0 it is Euler's,
    one pair. Rules act on predictions of the path's own levels, which this step does not use: any rule is refused. Raises
    `Unsupported` without "uncond".

    Args:
        scale: lambda, at least 0: 0 is unconditional; 0.6 is about CFG at 7.5 in the authors' table.
        eta: share of ancestral noise, 0 to 1; 1 as in the authors' code.

    >>> import emag
    >>> emag.CFGpp2S(eta=0.0).stochastic
    False
    """

    eta: float = 1.0

    name = "cfg++-2s"
    equation = "D2(g) - e^-h D2(u) + e^-h z, D2 at e^-h/2 z + (1 - e^-h/2) D(u)"
    cost = "1 evaluation pair, but from pure noise and to sigma 0"

    def check(self, model: GuidedModel) -> None:
        rules = [rule.name for rule in getattr(model, "rules", ())]
        if rules:
            raise Unsupported(f"{self.name} steps by predictions between the levels, where {rules[0]} does not act: leave "
                              "it out, or use cfg++-euler or cfg++-2m")

    def step(self, x: torch.Tensor, pred: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        path, (share, up) = model.path, ancestral(model.path, i, self.eta)
        guided, uncond = estimates(pred, x, i, model, self.scale, self.name)
        half = math.sqrt(share * path.shrink(i, i + 1))
        if half > 0:  # neither from pure noise nor to none
            alpha, sigma = path.below(i, half)
            inner = alpha * (half * x / path.alphas[i] + (1 - half) * uncond)
            guided, uncond = self._inner(model, inner, alpha, sigma)
        return with_noise(descend(x, guided, uncond, path, i, share), up, i, model, self.name)

    def _inner(self, model: GuidedModel, x: torch.Tensor, alpha: float, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        """D(g) and D(u) at a level between two of the path."""
        branches = model.branches_at(x, alpha, sigma)
        cond, uncond = (to_x0(branches[name], x, alpha, sigma, model.space) for name in (COND, UNCOND))
        return torch.lerp(uncond, cond, self.scale), uncond


def estimates(pred: torch.Tensor, x: torch.Tensor, i: int, model: GuidedModel, scale: float,
              who: str) -> tuple[torch.Tensor, torch.Tensor]:
    """D(g) and D(u) at level i, [batch, ...]. pred: the conditional prediction, pushed by weak rules."""
    if UNCOND not in model.latest:
        raise Unsupported(f"{who} needs the unconditional prediction, and this model gives none: use a model with a null "
                          "condition, or another solver")
    cond, uncond = (to_x0(p, x, *model.path.at(i), model.space) for p in (pred, model.latest[UNCOND]))
    return torch.lerp(uncond, cond, scale), uncond


def descend(x: torch.Tensor, guided: torch.Tensor, uncond: torch.Tensor, path: Path, i: int,
          share: float = 1.0) -> torch.Tensor:
    """alpha' (D(g) + e^-h (z - D(u))), [batch, ...]: the step from level i down to `share` of the next level's k."""
    alpha, sigma = path.at(i + 1)
    # alpha' e^-h z = share sigma' x / sigma, which is finite at alpha = 0
    return alpha * (guided - share * path.shrink(i, i + 1) * uncond) + share * sigma / path.sigmas[i] * x


def ancestral(path: Path, i: int, eta: float) -> tuple[float, float]:
    """Which share of the next level's k a step goes down to, and the noise that brings it up again, in x; eta 0: 1, none."""
    up = eta * math.sqrt(1 - path.shrink(i, i + 1) ** 2)
    return math.sqrt(1 - up**2), path.sigmas[i + 1] * up


def with_noise(x: torch.Tensor, size: float, i: int, model: GuidedModel, name: str) -> torch.Tensor:
    """x with noise of that size, each sample's its own."""
    return x + size * model.noise(f"{name}/{i}", x).to(x) if size else x


def step_ratio(path: Path, i: int) -> float:
    """r of 2M: the step before over this one, in log k."""
    return (log_snr(path, i) - log_snr(path, i - 1)) / (log_snr(path, i + 1) - log_snr(path, i))


def check_lambda(name: str, scale: float) -> None:
    """Raise `BadValue` for a lambda below 0, or none."""
    if not 0 <= scale < math.inf:
        raise BadValue(f"{name} scale must be at least 0 (0 is unconditional), got {scale}")


def check_eta(name: str, eta: float) -> None:
    """Raise `BadValue` for a share outside 0 to 1."""
    if not 0 <= eta <= 1:
        raise BadValue(f"{name} eta must be 0 to 1, got {eta}")
