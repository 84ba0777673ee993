"""Self-guidance: the network at the same x, told a noisier time."""

from dataclasses import dataclass

from ...core import Perturbation, Step
from ...errors import BadValue
from ..common.push import Push


@dataclass(frozen=True)
class ToldNoisier(Perturbation):
    """The weak branch of SG: the timestep moved by `shift` of the training schedule towards noise."""

    shift: float

    @property
    def noisier(self) -> float:
        return self.shift


@dataclass(frozen=True)
class SG(Push):
    """Self-guidance: push away from the network's own prediction at the same x, told a noisier time.

    A network that is told more noise than there is sees less, and blurs what it is unsure of. The difference is taken
    of what the network gives, in its own space; x and its scaling stay. No time goes beyond pure noise, so nothing is
    evaluated at a first step that is pure noise (flow models). `SGPrev` takes the step before instead, at no cost.

    Args:
        shift: delta, by how much noisier a time, as a share of the training schedule, in [0, 1]; 0 is off, 0.01 (10
            of 1000) published.

    >>> import emag
    >>> emag.SG(4.0).perturbation.noisier
    0.01
    """

    shift: float = 0.01

    name = "sg"
    paper = "arXiv 2412.05827"
    equation = "p + (w - 1) (cond(x, t) - cond(x, t + delta))"
    cost = "one weak evaluation of the conditional rows per step, all blocks"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.shift <= 1:
            raise BadValue(f"sg shift must lie in [0, 1], a share of the training schedule (0 is off), got {self.shift}")

    @property
    def neutral(self) -> bool:
        return super().neutral or self.shift == 0

    @property
    def perturbation(self) -> Perturbation:
        return ToldNoisier(self.shift)

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return () if step.time >= 1 else super().branches(step)
