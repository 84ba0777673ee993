"""A schedule that halves a scale over the run."""

import math
from dataclasses import dataclass

from ..core import Schedule, Step
from ..errors import BadValue


@dataclass(frozen=True)
class Waning(Schedule):
    """EchoMimicV3's decay: from w at the first step down to w / 2, and no guidance in the last steps.

    w_i = w / 2 + (w / 4) (1 - cos(pi ((N - i) / N)^5)), i from 0 to N - 1. Half of the fall is over by an eighth of the
    run. In the last share `skip` of the steps it is 1, the conditional prediction alone. Theirs are two scales, on text
    and on audio: `emag.methods.combining.compositional.phase_negative` takes one for each.

    Args:
        power: above 0; 5 in the authors' code. A smaller one falls later.
        skip: share of the steps, in [0, 1], that end a run at scale 1; 0, the default, is none, and 1 all.

    >>> import emag
    >>> emag.CFG(emag.Waning(4.0, skip=0.1)).scale.power
    5.0
    """

    power: float = 5.0
    skip: float = 0.0

    name = "waning"
    paper = "arXiv 2507.03905"
    equation = "w / 2 + (w / 4) (1 - cos(pi ((N - i) / N)^p))"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.power > 0 and math.isfinite(self.power) and 0 <= self.skip <= 1):
            raise BadValue(f"waning needs power > 0 and skip in [0, 1], got power={self.power} and skip={self.skip}")

    def known(self, step: Step) -> float | None:
        left = (step.count - step.index) / step.count
        if left <= self.skip:
            return 1.0
        return self.strength / 2 + self.strength / 4 * (1 - math.cos(math.pi * left**self.power))
