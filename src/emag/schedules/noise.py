"""A schedule that follows the noise level."""

from dataclasses import dataclass

from ..core import Schedule, Step
from ..errors import BadValue


@dataclass(frozen=True)
class NoisePower(Schedule):
    """A power of the noise: the scale falls with the time of the training schedule, to 0 at the end of a run.

    OmniSync's weight, scale (t / T)^power, t = T at pure noise. Below 1 it weakens the condition, and 0 is the
    unconditional prediction, as published.

    Args:
        power: at least 0; 1.5 published; 0 is constant.

    >>> import emag
    >>> emag.CFG(emag.NoisePower(4.0)).scale.power
    1.5
    """

    power: float = 1.5

    name = "noise-power"
    paper = "arXiv 2505.21448"
    equation = "w (t / T)^p"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.power < float("inf"):
            raise BadValue(f"noise-power power must be at least 0 (0 is constant), got {self.power}")

    def known(self, step: Step) -> float | None:
        return self.strength * step.time**self.power
