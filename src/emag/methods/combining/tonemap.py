"""Tone-mapped guidance."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Rule, RunStart, Step
from ...errors import BadValue
from ...maths.layout import pack, unpack
from ...maths.vectors import widened
from ...schedules import Scale, check_scale, weight


@dataclass(frozen=True)
class Tonemap(Rule):
    """Reinhard tone mapping of the push: CFG that holds back at the places where the push is largest.

    m is the length of D = p - u over channels, at each place; T = multiplier (mean + 5 deviations of m) of the sample.
    The push is divided by 1 + m / T there, so that it is never longer than T. The same in every space.

    Args:
        scale: w, at least 0, or a schedule. None takes the model's default.
        multiplier: above 0; the larger, the nearer to CFG.

    >>> import emag
    >>> emag.Tonemap(8.0).multiplier
    1.0
    """

    scale: Scale | None = None
    multiplier: float = 1.0

    name = "tonemap"
    paper = "ComfyUI's ModelSamplerTonemapNoiseTest"
    equation = "u + w D / (1 + m / T), m = |D| over channels, T = multiplier (mean m + 5 std m)"
    kind = "combining"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        if self.multiplier <= 0:
            raise BadValue(f"tonemap multiplier must be above 0, got {self.multiplier}")

    def fits_run(self, start: RunStart) -> None:
        unpack(start.first.x, start.first)

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        wide = widened(pred)
        null = branches[UNCOND].to(wide)
        push = unpack(wide - null, step)
        length = push.norm(dim=1, keepdim=True)
        deviation, mean = torch.std_mean(length.flatten(1), dim=1)
        top = (self.multiplier * (mean + 5 * deviation)).view(-1, *[1] * (push.ndim - 1))
        held = pack(push * top / (top + length).clamp(min=torch.finfo(top.dtype).tiny), step)
        return (null + weight(self.scale, branches, step, state, wide) * held).to(pred.dtype)
