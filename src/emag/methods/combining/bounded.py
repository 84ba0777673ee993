"""Guidance whose result is bounded: by an angle, and by a length."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Rule, Step
from ...errors import BadValue
from ...maths.predictions import convert
from ...maths.vectors import cosine_between, divided, dot, norm, project
from ...schedules import Scale, check_scale, known, weight


@dataclass(frozen=True)
class ADG(Rule):
    """Angle-domain guidance: turn the conditional clean sample away from the unconditional one.

    With t the angle between u and p, both in x0: the result is p turned by min((w - 1) t, limit) in the plane of the
    two, and no longer than sqrt(2) times p. CFG in its place makes it longer the larger the scale. Per sample.

    Args:
        scale: w, at least 1, or a schedule; 1 is off. None takes the model's default.
        limit: the largest turn, in degrees, in (0, 90]; 60 published.

    >>> import emag
    >>> emag.ADG(6.0).limit
    60.0
    """

    scale: Scale | None = None
    limit: float = 60.0

    name = "adg"
    paper = "arXiv 2506.11039"
    equation = "cos(f) p + sin(f) / sin(t) (p - P_u p), f = min((w - 1) t, limit)"
    kind = "combining"
    space = "x0"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale, low=1.0)
        if not 0 < self.limit <= 90:
            raise BadValue(f"adg limit is an angle in degrees in (0, 90], got {self.limit}")

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) != 1

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        wide, null = pred.double(), branches[UNCOND].double()
        _, across = project(wide, null)
        angle = torch.acos(cosine_between(wide, null).clamp(-1, 1))
        turn = ((weight(self.scale, branches, step, state, wide) - 1) * angle).clamp(0, math.radians(self.limit))
        # |p - P_u p| is |p| sin(t): dividing by sin(t) gives it the length of p
        made = turn.cos() * wide + turn.sin() * divided(norm(wide), norm(across)) * across
        return (made * divided(math.sqrt(2) * norm(wide), norm(made), otherwise=1.0).clamp(max=1)).to(pred.dtype)


@dataclass(frozen=True)
class PMCCFG(Rule):
    """PMC-CFG: CFG that stops where its result would be longer than so many times the conditional clean sample.

    p + b D, D = p - u in x0, with b the smaller of w - 1 and the root of |p + b D| = bound |p|. Per sample.

    Args:
        scale: w, at least 0, or a schedule; 1 is off. None takes the model's default.
        bound: G, the longest result as a multiple of |p|, at least 1. 1.05 published, 1.15 for SD3.5.

    >>> import emag
    >>> emag.PMCCFG(5.0).bound
    1.05
    """

    scale: Scale | None = None
    bound: float = 1.05

    name = "pmc-cfg"
    paper = "arXiv 2609.24287"
    equation = "p + min(w - 1, root of |p + b D| = G |p|) D, in x0"
    kind = "combining"
    space = "x0"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        if self.bound < 1:
            raise BadValue(f"pmc-cfg bound must be at least 1, got {self.bound}")

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) != 1

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        wide = pred.double()
        push = wide - branches[UNCOND].double()
        square, along, length = dot(push, push), dot(wide, push), dot(wide, wide)
        # the larger root of |D|^2 b^2 + 2 <p, D> b - (G^2 - 1) |p|^2 = 0
        most = divided((along.square() + (self.bound**2 - 1) * square * length).sqrt() - along, square)
        wanted = weight(self.scale, branches, step, state, wide) - 1
        return (wide + torch.minimum(torch.as_tensor(wanted).to(most), most) * push).to(pred.dtype)


@dataclass(frozen=True)
class AdaMaG(Rule):
    """AdaMaG: CFG whose push along the noise is weakened, and whose scale falls with the noise.

    The push D = p - u is split into its part along the predicted noise and the rest; projections per sample, the same
    in every space. s is the flow time, 1 at pure noise.

    Args:
        scale: w at pure noise, at least 0, or a schedule. None takes the model's default.
        beta: share of the part along the noise that is kept, in [0, 1]; 1 keeps all.
        gamma: power of s that w falls with, at least 0; 0 is constant.
        least: the least scale, at least 0. Defaults of all three from a port.

    >>> import emag
    >>> emag.AdaMaG(5.0, beta=1.0, gamma=0.0).space is None  # CFG
    True
    """

    scale: Scale | None = None
    beta: float = 0.1
    gamma: float = 4.0
    least: float = 1.0

    name = "adamag"
    paper = "arXiv 2605.20079"
    equation = "u + max(least, w s^gamma) (D_orthogonal + beta D_parallel), to the predicted noise"
    kind = "combining"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        if not 0 <= self.beta <= 1 or self.gamma < 0 or self.least < 0:
            raise BadValue("adamag needs beta in [0, 1], gamma and least of at least 0, got "
                           f"{self.beta}, {self.gamma}, {self.least}")

    def reads_null(self, step: Step) -> bool:
        return self.beta != 1 or self.gamma != 0 or self.least > 1 or known(self.scale, step) != 1

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        wide = pred.double()
        push = wide - branches[UNCOND].double()
        along, _ = project(push, noise_of(wide, step))
        scale = weight(self.scale, branches, step, state, wide) * step.flow_time**self.gamma
        scale = torch.as_tensor(scale).to(wide).clamp(min=self.least)
        return (wide + (scale - 1) * push - scale * (1 - self.beta) * along).to(pred.dtype)


def noise_of(pred: torch.Tensor, step: Step) -> torch.Tensor:
    """The noise that a prediction takes x to hold."""
    return convert(pred, step.x.to(pred), step.alpha, step.sigma, step.space, "epsilon")
