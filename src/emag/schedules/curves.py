"""Schedules that depend on where the run is, and on nothing else."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..core import Schedule, Step, check_scale
from ..errors import BadValue

IntervalUnit = Literal["sigma", "ratio", "progress"]
CurveConvention = Literal["y", "w"]
CurveShape = Literal["linear", "cosine", "sine", "lambda", "v", "power-cosine"]
SHAPES: dict[CurveShape, Callable[[float, float], float]] = {
    "linear": lambda tau, power: 2 * tau,
    "cosine": lambda tau, power: 1 - math.cos(math.pi * tau),
    "sine": lambda tau, power: 1 + math.cos(math.pi * tau),
    "lambda": lambda tau, power: 2 - 2 * abs(2 * tau - 1),
    "v": lambda tau, power: 2 * abs(2 * tau - 1),
    "power-cosine": lambda tau, power: (1 - math.cos(math.pi * tau**power)) / 2,
}
"""Curves over the progress tau, 0 at the noisiest step and 1 at the last. All but the last have mean 1."""


@dataclass(frozen=True)
class Constant(Schedule):
    """A constant scale: the same strength at every step, as a plain number.

    >>> import emag
    >>> emag.CFG(emag.Constant(4.0)).scale.equation
    'w'
    """

    name = "constant"
    paper = "arXiv 2207.12598"
    equation = "w"
    over_tokens = True

    def known(self, step: Step) -> float | None:
        return self.scale


@dataclass(frozen=True)
class Interval(Schedule):
    """A limited interval: guide in the middle noise levels only, and spare the evaluations of the others.

    w where low < sigma <= high, else 1. The steps outside evaluate no unconditional rows. Every evaluation counts by
    its own level; the authors' Heun sampler lets the second evaluation of a step follow the first.

    Args:
        low: lower end of the interval, in `unit`, at least 0.
        high: upper end, in `unit`, at least `low`.
        unit: "ratio": sigma / alpha, the sigma of EDM (published for EDM2-XXL: 0.19 to 1.61; for SDXL about 0.28 to
            5.42, unconfirmed). "sigma": this package's noise share in [0, 1]. "progress": fraction of the run, low <=
            p < high.
        outside: the scale of the other steps, at least 0; 1 is the conditional prediction, 0 the unconditional one
            (which spares nothing).

    >>> import emag
    >>> emag.CFG(emag.Interval(4.0, low=0.2, high=0.8, unit="progress")).scale.cost
    'none; a step at scale 1 needs no unconditional or weak evaluation'
    """

    low: float = 0.19
    high: float = 1.61
    unit: IntervalUnit = "ratio"
    outside: float = 1.0

    name = "interval"
    paper = "arXiv 2404.07724"
    equation = "w if low < sigma <= high else 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.low <= self.high:
            raise BadValue(f"interval needs 0 <= low <= high, got {self.low} and {self.high}")
        check_scale(self.name, self.outside, field="outside")

    def known(self, step: Step) -> float | None:
        return self.scale if self.inside(step) else self.outside

    @property
    def over_tokens(self) -> bool:
        return self.unit == "progress"

    def inside(self, step: Step) -> bool:
        """True where the step is guided."""
        if self.unit == "progress":  # below 1 at the last step too, so that high = 1 leaves none out
            return self.low <= step.index / step.count < self.high
        at = step.sigma if self.unit == "sigma" else step.ratio
        return self.low < at <= self.high


@dataclass(frozen=True)
class Curve(Schedule):
    """A weight scheduler: the scale times a curve over the progress tau of the run, from 0 to 1.

    All curves but the power-cosine have mean 1, so that `scale` is the mean of w. The power-cosine with power 4 and
    "y" is MDT's schedule (arXiv 2303.14389): w runs from 1 to scale, 3.8 or 4 there.

    Args:
        shape: "linear" 2 tau; "cosine" 1 - cos(pi tau); "sine" 1 + cos(pi tau), falling; "lambda" up and down, and
            "v" down and up, in two straight lines; "power-cosine" (1 - cos(pi tau^power)) / 2.
        falling: mirrored in time (linear and falling is the paper's linear decrease).
        power: above 0, for the power-cosine only; MDT's is 4.
        floor: least value of w, at least 0; the paper's clamped schedulers have 1, 2 or 4.
        convention: what the curve multiplies. "y": w = 1 + (scale - 1) curve, so that 0 is the conditional
            prediction. "w": w = scale curve, so that 0 is the unconditional one. Which of the two the paper plots is
            unconfirmed; "y" is the safe one.

    >>> import emag
    >>> emag.CFG(emag.Curve(4.0, "power-cosine", power=4.0)).scale.convention
    'y'
    """

    shape: CurveShape = "linear"
    falling: bool = False
    power: float = 4.0
    floor: float = 0.0
    convention: CurveConvention = "y"

    name = "curve"
    paper = "arXiv 2404.13040"
    equation = "max(floor, 1 + (w - 1) curve(tau))"
    over_tokens = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.power < math.inf or not 0 <= self.floor < math.inf:
            raise BadValue(f"curve needs power > 0 and floor >= 0, got power={self.power} and floor={self.floor}")

    def known(self, step: Step) -> float | None:
        tau = 1 - step.progress if self.falling else step.progress
        share = SHAPES[self.shape](tau, self.power)
        value = self.strength * share if self.convention == "w" else 1 + (self.strength - 1) * share
        return max(self.floor, value)


@dataclass(frozen=True)
class Rectified(Schedule):
    """The weight of Rectified-CFG++ as a schedule: weak at pure noise, the full scale at the end.

    It is 1 + (w - 1) (1 - t)^power, t = 1 at pure noise. Where velocities do not change along a step, CFG with this
    scale is Rectified-CFG++; `emag.RectifiedCFGpp` is the whole method, which measures the difference half a step
    ahead.

    Args:
        scale: w, the paper's lambda_max + 1, at least 0; 1 is off. None takes the rule's default.
        power: the paper's gamma, at least 0; 1.5 on the authors' page, 0 (constant) in their code.

    >>> import emag
    >>> emag.CFG(emag.Rectified(5.5, power=1.5)).scale.equation
    '1 + (w - 1) (1 - t)^p'
    """

    power: float = 1.5

    name = "rectified"
    paper = "arXiv 2510.07631"
    equation = "1 + (w - 1) (1 - t)^p"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.power < math.inf:
            raise BadValue(f"rectified power must be at least 0 (0 is a constant weight), got {self.power}")

    def known(self, step: Step) -> float | None:
        return 1 + (self.strength - 1) * (1 - step.time) ** self.power
