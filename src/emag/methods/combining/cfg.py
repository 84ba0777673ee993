"""Classifier-free guidance."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Rule, Step, check_tokens
from ...errors import BadValue
from ...maths.vectors import extrapolate, on_channels
from ...schedules import Scale, check_scale, known, weight


@dataclass(frozen=True)
class CFG(Rule):
    """Classifier-free guidance: go from the unconditional prediction towards the conditional one, and beyond it.

    Here u is the unconditional prediction and p the running one: the conditional prediction, moved by the rules named
    before. Named in a list, it takes the place of the pipeline's own guidance. A list has at most one rule that
    combines, after the weak branches.

    Steps whose scale is known to be 1 evaluate no unconditional rows: an `Interval` as scale saves time.

    Args:
        scale: w, at least 0, or a schedule. 1 gives the conditional prediction, 0 the unconditional one, above 1
            guides. None takes the model's default.
        channels: guide only the first so many channels, at least 1; the rest stays p (3 on the original DiT). None
            guides all.

    >>> import emag
    >>> emag.CFG(4.0).equation
    'u + w (p - u)'
    >>> emag.CFG(emag.Interval(4.0, 0.2, 0.8, "progress")).scale.unit
    'progress'
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

    def fits_tokens(self, timed: bool) -> None:
        check_tokens(self.name, self.scale, timed)
        if self.channels is not None:
            raise BadValue("cfg channels are those of an image, and tokens have none: leave it out")

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) != 1
