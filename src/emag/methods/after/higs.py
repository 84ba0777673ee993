"""History-guided sampling."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import Branches, Rule, RunStart, Step
from ...errors import BadValue
from ...maths.cosines import dct, frequencies, inverse_dct
from ...maths.layout import from_planes, planes
from ...maths.vectors import project
from ..common.history import moves_on


@dataclass(frozen=True)
class HiGS(Rule):
    """History-guided sampling: add the fine detail by which the clean sample differs from its own past.

    d = p - h is what is new, h the running average of the guided clean samples; of d only high frequencies are added
    (a smooth step in the DCT of each plane), with a weight that grows from flow time `stop` to `start`. The average
    starts from 0, so it is too small in the first steps: eta 0 takes just that part out of d. Works on the combined
    prediction: name a combining rule before it. Multistep solvers look ahead by themselves; take 0.5 at most there.

    Args:
        strength: w, at least 0; 0 is off. 1.75 published, up to 3.
        decay: share a of the new sample in the average, in (0, 1]; 0.5 to 0.75 published.
        cutoff: radius of the lowest frequencies that pass, at least 0; 1 is the highest along one side.
        start: flow time at which the weight is w, in (0, 1]; above it nothing is added. 0.9 to 1 published.
        stop: flow time at and below which nothing is added, in [0, start).
        eta: share of d's part along p that is kept, in [0, 1]: 0 for the best distance, 1 for preference.

    >>> import emag
    >>> emag.HiGS().space
    'x0'
    """

    strength: float = 1.75
    decay: float = 0.5
    cutoff: float = 0.05
    start: float = 0.9
    stop: float = 0.3
    eta: float = 0.0

    name = "higs"
    paper = "arXiv 2509.22300"
    equation = "p + w(t) iDCT(H DCT(d)), d = p - h without (1 - eta) of its part along p, h the average of p"
    kind = "after"
    space = "x0"

    def __post_init__(self) -> None:
        if self.strength < 0 or not 0 < self.decay <= 1 or self.cutoff < 0:
            raise BadValue("higs needs strength >= 0, decay in (0, 1] and cutoff >= 0, got "
                           f"{self.strength}, {self.decay}, {self.cutoff}")
        if not 0 <= self.stop < self.start <= 1 or not 0 <= self.eta <= 1:
            raise BadValue(f"higs needs 0 <= stop < start <= 1 (flow times) and eta in [0, 1], got stop={self.stop}, "
                           f"start={self.start}, eta={self.eta}")

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    def fits_run(self, start: RunStart) -> None:
        planes(start.first.x, start.first)

    def weight(self, time: float) -> float:
        """w(t) at flow time `time`."""
        if not self.stop < time <= self.start:
            return 0.0
        return self.strength * ((time - self.stop) / (self.start - self.stop)) ** 0.5

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        wide, past = pred.double(), state.get("past")
        if moves_on(step, state):
            state["past"] = self.decay * wide + (1 - self.decay) * (0 if past is None else past)
            state["before"] = past
        before, strength = state["before"], self.weight(step.flow_time)
        if before is None or strength == 0:
            return pred
        along, across = project(wide - before, wide)
        return (wide + strength * self._fine(across + self.eta * along, step)).to(pred.dtype)

    def _fine(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """The high frequencies of `x`, plane by plane."""
        found = dct(planes(x, step))
        passed = torch.sigmoid(50 * (frequencies(*found.shape[-2:]) - self.cutoff)).to(found)
        return from_planes(inverse_dct(passed * found), step, x)
