"""Schedules that measure how far the conditional and the unconditional prediction are apart, per sample.

The difference is that of the clean branches, c - u, also where weak rules have moved the running prediction.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..core import COND, UNCOND, Branches, Schedule, Step
from ..errors import BadValue
from ..maths.predictions import difference_scale

CAP = 6e4  # fits 16-bit floats; reached only where c and u agree but for rounding


@dataclass(frozen=True)
class BetaCFG(Schedule):
    """The scale of beta-CFG: a push of one length, small at both ends of the run.

    w B(tau; a, b) / |c - u|^gamma, the norm per sample and of epsilon predictions. B is the density of the beta
    distribution at the progress tau of the run, 0 to 1. With gamma = 1 the push has the norm w B in epsilon space,
    whatever c - u is. Where alpha is 0, epsilon tells nothing and w is 1. Defaults from the authors' command line;
    their page has b = 3.

    Args:
        scale: w, at least 0. With gamma above 0 it is the length of a push, not a scale of CFG. None takes the rule's
            default.
        a: of the beta distribution, at least 1; above 1 the first step is unconditional.
        b: of the beta distribution, at least 1; above 1 the last step is unconditional.
        gamma: power of the norm, at least 0; 0 leaves the curve alone, and with a = b = 1 plain CFG.
        normalise: divide B by its peak (the authors' code never does).

    >>> import emag
    >>> emag.BetaCFG(7.5).measures, emag.BetaCFG(7.5, gamma=0.0).measures  # gamma 0 looks at no prediction
    (True, False)
    """

    scale: float | None = 7.5
    a: float = 2.0
    b: float = 2.0
    gamma: float = 1.0
    normalise: bool = False

    name = "beta-cfg"
    paper = "arXiv 2502.10574"
    equation = "w B(tau; a, b) / |c - u|^gamma"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (1 <= self.a < math.inf and 1 <= self.b < math.inf):
            raise BadValue(f"beta-cfg a and b must be at least 1 (below, B is infinite at an end), got {self.a}, {self.b}")
        if not 0 <= self.gamma < math.inf:
            raise BadValue(f"beta-cfg gamma must be at least 0 (0 divides by nothing), got {self.gamma}")

    @property
    def measures(self) -> bool:
        return self.gamma != 0

    def known(self, step: Step) -> float | None:
        value = self.strength * self._curve(step.progress)
        return value if self.gamma == 0 or value == 0 else None

    def at(self, branches: Branches, step: Step, state: dict[str, Any]) -> float | torch.Tensor:
        value = self.known(step)
        if value is not None:
            return value
        norm = epsilon_norm(self.name, branches, step)
        if norm is None:
            return 1.0
        return (self.strength * self._curve(step.progress) / norm**self.gamma).clamp(max=CAP)

    def _curve(self, tau: float) -> float:
        density = beta_density(tau, self.a, self.b)
        spread = self.a + self.b - 2
        return density / beta_density((self.a - 1) / spread, self.a, self.b) if self.normalise and spread else density


@dataclass(frozen=True)
class MAMBOG(Schedule):
    """MAMBO-G: guide less where the two predictions are far apart for the size of the unconditional one.

    1 + (w - 1) exp(-alpha |c - u| / |u|), per sample. Norms in the space of the rule that it is the scale of (for CFG
    the network's own, as in diffusers): not the same in all spaces. u = 0 counts as far apart: w is 1. Defaults:
    diffusers' (10 and 8).

    Args:
        scale: w where the predictions agree, its largest value, at least 0; 1 is off. None takes the rule's default.
        alpha: how fast it falls, at least 0; 0 is a constant scale.

    >>> import emag
    >>> emag.CFG(emag.MAMBOG(10.0)).scale.alpha
    8.0
    """

    scale: float | None = 10.0
    alpha: float = 8.0

    name = "mambo-g"
    paper = "arXiv 2508.03442"
    equation = "1 + (w - 1) exp(-alpha |c - u| / |u|)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < math.inf:
            raise BadValue(f"mambo-g alpha must be at least 0 (0 is a constant scale), got {self.alpha}")

    @property
    def measures(self) -> bool:
        return self.alpha != 0

    def known(self, step: Step) -> float | None:
        return self.strength if self.alpha == 0 or self.strength == 1 else None

    def at(self, branches: Branches, step: Step, state: dict[str, Any]) -> float | torch.Tensor:
        value = self.known(step)
        if value is not None:
            return value
        cond, uncond = both(self.name, branches)
        apart, size = norms(cond - uncond), norms(uncond)
        ratio = torch.where(apart > 0, apart / size, 0.0)
        return 1 + (self.strength - 1) * torch.exp(-self.alpha * ratio)


def both(name: str, branches: Branches) -> tuple[torch.Tensor, torch.Tensor]:
    """(c, u) of a step. Raises `BadValue` where there is no unconditional prediction."""
    if UNCOND not in branches:
        raise BadValue(f"{name} measures the unconditional prediction, and this step has none: make it the scale of a rule "
                       "that combines, e.g. CFG, and give the pipeline a guidance scale above 1")
    return branches[COND], branches[UNCOND]


def norms(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each sample, [batch], in float64."""
    return x.flatten(1).double().norm(dim=1)


def epsilon_norm(name: str, branches: Branches, step: Step) -> torch.Tensor | None:
    """|c - u| of each sample as epsilon predictions, [batch]; None where epsilon cannot tell them apart (alpha 0)."""
    cond, uncond = both(name, branches)
    factor = abs(difference_scale(step.alpha, step.sigma, step.space, "epsilon"))
    return norms(cond - uncond) * factor if factor else None


def beta_density(tau: float, a: float, b: float) -> float:
    """Density of the beta distribution at tau in [0, 1], for a, b >= 1."""
    return math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)) * tau ** (a - 1) * (1 - tau) ** (b - 1)
