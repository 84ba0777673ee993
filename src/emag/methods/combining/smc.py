"""Sliding-mode control of guidance."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, RunStart, Step
from ...errors import BadValue
from ...maths.vectors import per_sample
from ...schedules import weight
from ..common.history import moves_on, spared
from ..common.scaled import Scaled
from ..common.warm_up import check_warm_up


@dataclass(frozen=True)
class SMCCFG(Scaled):
    """Sliding-mode-control CFG: steer the gap between the two predictions to 0 as a controller would.

    e = p - u is the gap, p the running prediction and u the unconditional one, on the path's straight space; e_before
    the corrected gap of the step before. Every entry of e is moved by a constant against the sign of
    s = e - e_before + lambda e_before. With one sign it shrinks the gap, and where the gap is small it overshoots and
    chatters: `soft` and `relative` are our ways out.

    Args:
        scale: w, at least 0, or a schedule. 7.5 for SD3 and SD3.5, 2 to 3 for FLUX with a true CFG, 4 for Qwen-Image, 5
            for Wan, in the authors' code. None takes the model's default.
        slope: lambda, at least 0; 5 in the authors' page, 0.05 the default of their class.
        gain: K, the size of the correction, at least 0; 0 is CFG. 0.2 for velocities; about 0.01 for epsilon.
        warm_up: how many first steps give p alone, at least 0; 2 in the authors' code for FLUX.
        soft: move no entry past 0.
        relative: K in units of the mean |e| of the sample.

    >>> import emag
    >>> emag.SMCCFG(5.0, gain=0.0).space
    'path'
    """

    slope: float = 5.0
    gain: float = 0.2
    warm_up: int = 0
    soft: bool = False
    relative: bool = False

    name = "smc-cfg"
    paper = "arXiv 2603.03281"
    equation = "u + w (e - K sign(e - e_before + lambda e_before))"
    space = "path"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slope < 0 or self.gain < 0 or self.warm_up < 0:
            raise BadValue("smc-cfg slope, gain and warm_up must be at least 0, got "
                           f"{self.slope}, {self.gain}, {self.warm_up}")

    def reads_null(self, step: Step) -> bool:
        return step.index >= self.warm_up and (super().reads_null(step) or self.gain > 0)

    def fits_run(self, start: RunStart) -> None:
        check_warm_up(self.name, self.warm_up, start)

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        gap = pred - branches[UNCOND]
        alone = spared(branches)
        new = moves_on(step, state)
        if new:
            state["before"] = torch.where(state["held"], state["last"], gap) if "last" in state else gap
        # where no guidance is, there is nothing to steer: K sign(...) of nothing but the past would be noise
        corrected = torch.where(alone, gap, self._corrected(gap, state["before"]))
        if new:
            state["last"], state["held"] = corrected, ~alone
        scale = weight(self.scale, branches, step, state, pred)
        # u + w e' as p plus what is new, so that scale 1 and gain 0 give p to the bit
        return pred + (scale - 1) * gap + scale * (corrected - gap)

    def _corrected(self, gap: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        gain = self.gain * per_sample(gap.flatten(1).abs().mean(1), gap) if self.relative else gap.new_tensor(self.gain)
        correction = gain * ((gap - before) + self.slope * before).sign()
        return gap - (torch.minimum(correction.abs(), gap.abs()) * correction.sign() if self.soft else correction)
