"""Adaptive projected guidance."""

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadValue
from ..guidance import UNCOND, Branches, Rule, Step
from ..schedules import Scale, check_scale, known, weight
from ..vectors import capped, project
from .cfg import on_channels


@dataclass(frozen=True)
class APG(Rule):
    """Adaptive projected guidance, arXiv 2410.02416, on predictions of the clean sample (x0).

    With D = p - u: m <- D + momentum m; D' = m min(1, norm_threshold / |m|); D' = orthogonal + parallel to p;
    result p + (w - 1) (orthogonal + eta parallel). Norms and projections per sample, in float64.

    scale: w, at least 0, or a schedule; 1 is off. eta: share of the parallel part, 0 (paper) to 1 (CFG).
    norm_threshold: cap on |m| in x0 units; 0 means no cap. momentum: running sum's decay, in (-1, 1); 0 is off. channels:
    guide only the first so many channels, of which alone norms and projections are then taken, the rest stays p (3 on the
    original DiT); None guides all.
    """

    scale: Scale | None = None
    eta: float = 0.0
    norm_threshold: float | None = None
    momentum: float | None = None
    channels: int | None = None

    name = "apg"
    paper = "arXiv 2410.02416"
    equation = "p + (w - 1) (orthogonal + eta parallel), in x0"
    space = "x0"
    kind = "combining"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        if self.norm_threshold is not None and not self.norm_threshold >= 0:
            raise BadValue(f"apg norm_threshold must be at least 0 (0 is no cap), got {self.norm_threshold}")
        if self.momentum is not None and not -1 < self.momentum < 1:
            raise BadValue(f"apg momentum must lie in (-1, 1), got {self.momentum}")
        if self.channels is not None and self.channels < 1:
            raise BadValue(f"apg channels must be at least 1 or None, got {self.channels}")

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) != 1

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        assert self.norm_threshold is not None and self.momentum is not None
        part, null = (p[:, :self.channels].double() for p in (pred, branches[UNCOND]))
        total = part - null + self.momentum * state.get("momentum", 0.0)
        state["momentum"] = total
        parallel, orthogonal = project(capped(total, self.norm_threshold), part)
        scale = weight(self.scale, branches, step, state, parallel)
        new = (part + (scale - 1) * (orthogonal + self.eta * parallel)).to(pred.dtype)
        return on_channels(new, pred, self.channels)
