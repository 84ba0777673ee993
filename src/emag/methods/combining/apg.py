"""Adaptive projected guidance."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Rule, Step
from ...errors import BadValue
from ...maths.vectors import capped, on_channels, project
from ...schedules import Scale, check_scale, known, weight
from ..common.history import moves_on, spared, summed


@dataclass(frozen=True)
class APG(Rule):
    """Adaptive projected guidance: CFG without the part of its push that only makes the prediction larger.

    Large scales of CFG make colours too strong, and most of that comes, the paper finds, from the part of the push
    that points along the prediction itself. APG takes the push D = p - u, p the running prediction and u the
    unconditional one, on predictions of the clean sample (x0), and weakens that part.

    In order: m <- D + momentum m; D' = m min(1, norm_threshold / |m|); D' = orthogonal + parallel to p; the result is
    p + (w - 1) (orthogonal + eta parallel). Norms and projections are taken per sample, in float64. With eta 1, no
    cap and no momentum it is CFG.

    Args:
        scale: w, at least 0, or a schedule; 1 is off. None takes the model's default.
        eta: share of the parallel part that is kept, 0 (paper) to 1 (CFG).
        norm_threshold: cap on |m| in x0 units, at least 0; 0 means no cap. None takes the model's default.
        momentum: decay of the running sum m, in (-1, 1); 0 is off, below 0 subtracts what the steps before pushed.
            None takes the model's default.
        channels: guide only the first so many channels, at least 1, of which alone norms and projections are then
            taken; the rest stays p (3 on the original DiT). None guides all.

    >>> import emag
    >>> rule = emag.APG(8.0, norm_threshold=15.0, momentum=-0.5)
    >>> rule.eta, rule.space
    (0.0, 'x0')
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
            state.pop("sum", None)  # behind a step without guidance it starts anew
            return pred
        assert self.norm_threshold is not None and self.momentum is not None
        # fp64: the parallel part is a small share of two large dot products
        part, null = (p[:, :self.channels].double() for p in (pred, branches[UNCOND]))
        # D <- (c - u) + beta D; beta is below 0, so that a direction pushed along before counts less now
        total = part - null
        if self.momentum:  # else nothing is remembered, and a step's answer is its own
            total = summed(total, self.momentum, spared(branches), moves_on(step, state), state)
        parallel, orthogonal = project(capped(total, self.norm_threshold), part)
        scale = weight(self.scale, branches, step, state, parallel)
        # p is u + D already, so w - 1 times the push is left to add
        new = (part + (scale - 1) * (orthogonal + self.eta * parallel)).to(pred.dtype)
        return on_channels(new, pred, self.channels)
