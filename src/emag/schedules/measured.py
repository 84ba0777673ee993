"""Schedules that measure the push itself: its length, and the angle between the predictions."""

from dataclasses import dataclass
from typing import Any

import torch

from ..core import Branches, Schedule, Step
from ..errors import BadValue
from ..maths.predictions import convert
from ..maths.vectors import cosine_between
from .normed import CAP, both, epsilon_norm


@dataclass(frozen=True)
class PowerLaw(Schedule):
    """Power-law CFG: guide more where the two predictions are far apart.

    1 + (w - 1) |d|^power, d the difference of the two scores, (c - u) / sigma as epsilon, per sample. Where alpha is 0,
    epsilon tells nothing and the scale is 1 (w at power 0).

    Args:
        scale: w, at least 0; 1 is off. Not comparable with a scale of CFG unless |d| is near 1. None takes the rule's
            default.
        power: at least 0; 0 is CFG. 0.9 in the published node.
        root_mean_square: |d| as the root of the mean square, which does not change with the resolution. The norm, as
            published, where off.

    >>> import emag
    >>> emag.CFG(emag.PowerLaw(4.0, power=0.0)).scale.measures
    False
    """

    power: float = 0.9
    root_mean_square: bool = True

    name = "power-law"
    paper = "arXiv 2502.07849"
    equation = "1 + (w - 1) |score_c - score_u|^power"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power < 0:
            raise BadValue(f"power-law power must be at least 0 (0 is CFG), got {self.power}")

    @property
    def measures(self) -> bool:
        return self.power != 0

    def known(self, step: Step) -> float | None:
        return self.strength if self.power == 0 or self.strength == 1 else None

    def at(self, branches: Branches, step: Step, state: dict[str, Any]) -> float | torch.Tensor:
        value = self.known(step)
        if value is not None:
            return value
        gap = epsilon_norm(self.name, branches, step)
        if gap is None:
            return 1.0
        size = step.x[0].numel() ** 0.5 if self.root_mean_square else 1.0
        return (1 + (self.strength - 1) * (gap / (step.sigma * size)) ** self.power).clamp(-CAP, CAP)


@dataclass(frozen=True)
class VAGS(Schedule):
    """VAGS: where the two predictions agree, guide less in the noisy half of the run and more in the clean one.

    w exp(kappa (1 - 2 s) cos(u, c)), s the flow time, 1 at pure noise. The cosine is taken per sample, of velocities on
    a flow model's path and of epsilon elsewhere.

    Args:
        scale: w at the middle of the run, at least 0. None takes the rule's default.
        kappa: at least 0; 0 is constant.

    >>> import emag
    >>> emag.CFG(emag.VAGS(4.0)).scale.kappa
    1.0
    """

    kappa: float = 1.0

    name = "vags"
    paper = "arXiv 2605.15661"
    equation = "w exp(kappa (1 - 2 s) cos(u, c))"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kappa < 0:
            raise BadValue(f"vags kappa must be at least 0 (0 is constant), got {self.kappa}")

    @property
    def measures(self) -> bool:
        return self.kappa != 0

    def known(self, step: Step) -> float | None:
        return self.strength if self.kappa == 0 else None

    def at(self, branches: Branches, step: Step, state: dict[str, Any]) -> float | torch.Tensor:
        value = self.known(step)
        if value is not None:
            return value
        straight = [convert(p.double(), step.x.double(), step.alpha, step.sigma, step.space, step.path_space)
                    for p in both(self.name, branches)]
        alike = cosine_between(*straight).flatten()
        return self.strength * torch.exp(self.kappa * (1 - 2 * step.flow_time) * alike)
