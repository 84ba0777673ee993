"""Guidance whose result is bounded: by an angle, and by a length."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...core import Step
from ...errors import BadValue
from ...maths.predictions import convert
from ...maths.vectors import cosine_between, divided, dot, norm, project
from ...schedules import check_scale
from ..common.scaled import Scaled


@dataclass(frozen=True)
class ADG(Scaled):
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

    limit: float = 60.0

    name = "adg"
    paper = "arXiv 2506.11039"
    equation = "cos(f) p + sin(f) / sin(t) (p - P_u p), f = min((w - 1) t, limit)"
    space = "x0"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale, low=1.0)
        if not 0 < self.limit <= 90:
            raise BadValue(f"adg limit is an angle in degrees in (0, 90], got {self.limit}")

    def joined(self, pred: torch.Tensor, null: torch.Tensor, scale: float | torch.Tensor, step: Step,
               state: dict[str, Any]) -> torch.Tensor:
        wide, null = pred.double(), null.double()
        _, across = project(wide, null)
        angle = torch.acos(cosine_between(wide, null).clamp(-1, 1))
        turn = ((scale - 1) * angle).clamp(0, math.radians(self.limit))
        # |p - P_u p| is |p| sin(t): dividing by sin(t) gives it the length of p
        made = turn.cos() * wide + turn.sin() * divided(norm(wide), norm(across)) * across
        return made * divided(math.sqrt(2) * norm(wide), norm(made), otherwise=1.0).clamp(max=1)


@dataclass(frozen=True)
class PMCCFG(Scaled):
    """PMC-CFG: CFG that stops where its result would be longer than so many times the conditional clean sample.

    p + b D, D = p - u in x0, with b the smaller of w - 1 and the root of |p + b D| = bound |p|. Per sample.

    Args:
        scale: w, at least 0, or a schedule; 1 is off. None takes the model's default.
        bound: G, the longest result as a multiple of |p|, at least 1. 1.05 published, 1.15 for SD3.5.

    >>> import emag
    >>> emag.PMCCFG(5.0).bound
    1.05
    """

    bound: float = 1.05

    name = "pmc-cfg"
    paper = "arXiv 2609.24287"
    equation = "p + min(w - 1, root of |p + b D| = G |p|) D, in x0"
    space = "x0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bound < 1:
            raise BadValue(f"pmc-cfg bound must be at least 1, got {self.bound}")

    def joined(self, pred: torch.Tensor, null: torch.Tensor, scale: float | torch.Tensor, step: Step,
               state: dict[str, Any]) -> torch.Tensor:
        wide = pred.double()
        push = wide - null.double()
        square, along, length = dot(push, push), dot(wide, push), dot(wide, wide)
        # the larger root of |D|^2 b^2 + 2 <p, D> b - (G^2 - 1) |p|^2 = 0
        most = divided((along.square() + (self.bound**2 - 1) * square * length).sqrt() - along, square)
        return wide + torch.minimum(torch.as_tensor(scale - 1).to(most), most) * push


@dataclass(frozen=True)
class AdaMaG(Scaled):
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

    beta: float = 0.1
    gamma: float = 4.0
    least: float = 1.0

    name = "adamag"
    paper = "arXiv 2605.20079"
    equation = "u + max(least, w s^gamma) (D_orthogonal + beta D_parallel), to the predicted noise"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta <= 1 or self.gamma < 0 or self.least < 0:
            raise BadValue("adamag needs beta in [0, 1], gamma and least of at least 0, got "
                           f"{self.beta}, {self.gamma}, {self.least}")

    def reads_null(self, step: Step) -> bool:
        return self.beta != 1 or self.gamma != 0 or self.least > 1 or super().reads_null(step)

    def joined(self, pred: torch.Tensor, null: torch.Tensor, scale: float | torch.Tensor, step: Step,
               state: dict[str, Any]) -> torch.Tensor:
        wide = pred.double()
        push = wide - null.double()
        along, _ = project(push, noise_of(wide, step))
        scale = torch.as_tensor(scale * step.flow_time**self.gamma).to(wide).clamp(min=self.least)
        return wide + (scale - 1) * push - scale * (1 - self.beta) * along


def noise_of(pred: torch.Tensor, step: Step) -> torch.Tensor:
    """The noise that a prediction takes x to hold."""
    return convert(pred, step.x.to(pred), step.alpha, step.sigma, step.space, "epsilon")
