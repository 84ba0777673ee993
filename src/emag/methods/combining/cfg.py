"""Classifier-free guidance."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Rule, Step
from ...errors import BadValue
from ...maths.vectors import extrapolate, on_channels
from ...schedules import Scale, check_scale, known, weight


@dataclass(frozen=True)
class CFG(Rule):
    """Classifier-free guidance, arXiv 2207.12598: u + w (p - u), with p the running prediction.

    scale: w, at least 0, or a schedule; 1 gives the conditional prediction, 0 the unconditional one.
    channels: guide only the first so many channels, the rest stays p (3 on the original DiT); None guides all.
    """

    scale: Scale | None = None
    channels: int | None = None

    name = "cfg"
    paper = "arXiv 2207.12598"
    equation = "u + w (p - u)"
    kind = "combining"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        if self.channels is not None and self.channels < 1:
            raise BadValue(f"cfg channels must be at least 1 or None, got {self.channels}")

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        scale = weight(self.scale, branches, step, state, pred)
        return on_channels(extrapolate(branches[UNCOND], pred, scale), pred, self.channels)

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) != 1
