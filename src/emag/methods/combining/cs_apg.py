"""Context-style guidance in its projected form."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Conditioned, Perturbation, Rule, Step
from ...errors import BadValue
from ...maths.vectors import capped, project
from ...schedules import Scale, check_scale, known, weight


@dataclass(frozen=True)
class CSAPG(Rule):
    """Context-style guidance, arXiv 2510.07546, projected: p + (w_t - 1) A(p - e) + (w_c - 1) A(e - u).

    e is the prediction under `context`: the context without the text (a name given as emag.guide(..., conditions=...), or
    "prompt:a text"). A(D) as in APG, with a momentum of its own for each of the two: m <- D + momentum m, capped at
    norm_threshold (0 is no cap), split along p; orthogonal + eta parallel. In the network's own space (a velocity where
    published). scale: w_t, at least 0, or a schedule; context_scale: w_c, at least 0; 1 is off for both. In the plain form,
    `conditions.cs_cfg`, the context is off at 0: w_c there is this one less 1. Defaults as the authors publish them.
    """

    scale: Scale | None = 5.0
    context_scale: float = 4.0
    context: str = "context"
    eta: float = 0.0
    norm_threshold: float = 55.0
    momentum: float = 0.75

    name = "cs-apg"
    paper = "arXiv 2510.07546"
    equation = "p + (w_t - 1) A(p - e) + (w_c - 1) A(e - u)"
    kind = "combining"
    cost = "one conditional evaluation a step, for the context without the text"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        check_scale(self.name, self.context_scale, field="context_scale")
        if not math.isfinite(self.eta):
            raise BadValue(f"cs-apg eta must be a number, 0 (published) to 1 (no projection), got {self.eta}")
        if not 0 <= self.norm_threshold < math.inf:
            raise BadValue(f"cs-apg norm_threshold must be at least 0 (0 is no cap), got {self.norm_threshold}")
        if not -1 < self.momentum < 1:
            raise BadValue(f"cs-apg momentum must lie in (-1, 1), got {self.momentum}")

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (Conditioned(self.context),) if self.scale != 1 or self.context_scale != 1 else ()

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return self.weak if known(self.scale, step) != 1 or self.context_scale != 1 else ()

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) is None or self.context_scale != 1

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.branches(step):
            return pred
        new = pred.double()
        if known(self.scale, step) != 1:
            scale = weight(self.scale, branches, step, state, new)
            new = new + (scale - 1) * self._step("text", pred, branches[Conditioned(self.context)], pred, state)
        if self.context_scale != 1:
            context = branches[Conditioned(self.context)], branches[UNCOND]
            new = new + (self.context_scale - 1) * self._step("context", *context, pred, state)
        return new.to(pred.dtype)

    def _step(self, name: str, strong: torch.Tensor, weak: torch.Tensor, onto: torch.Tensor,
              state: dict[str, Any]) -> torch.Tensor:
        """A(strong - weak), with the momentum kept under `name`."""
        total = state[name] = strong.double() - weak.double() + self.momentum * state.get(name, 0.0)
        parallel, orthogonal = project(capped(total, self.norm_threshold), onto.double())
        return orthogonal + self.eta * parallel
