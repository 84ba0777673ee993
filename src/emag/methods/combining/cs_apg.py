"""Context-style guidance in its projected form."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Conditioned, Perturbation, Rule, Step
from ...errors import BadValue
from ...maths.vectors import capped, project
from ...schedules import Scale, check_scale, known, weight
from ..common.history import moves_on, summed


@dataclass(frozen=True)
class CSAPG(Rule):
    """Context-style guidance, projected: one push for the text and one for the context, each as in APG.

    p has the context and the text. e is the prediction under `context`: the context without the text. u has neither.
    Then the result is p + (w_t - 1) A(p - e) + (w_c - 1) A(e - u).

    A(D) is as in APG, with a momentum of its own for each of the two: m <- D + momentum m, capped at norm_threshold,
    split along p; orthogonal + eta parallel. In the network's own space (a velocity where published). Defaults as the
    authors publish them. In the plain form, `emag.methods.combining.compositional.cs_cfg`, the context is off at 0:
    w_c there is this one less 1.

    Args:
        scale: w_t, for the text, at least 0, or a schedule; 1 is off.
        context_scale: w_c, for the context, at least 0; 1 is off.
        context: the condition with the context and without the text: a name given as emag.guide(..., conditions=...),
            or "prompt:a text".
        eta: share of the part along p that is kept, any finite number: 0 as published, 1 no projection.
        norm_threshold: cap on |m|, at least 0; 0 is no cap.
        momentum: decay of the running sum m, in (-1, 1); 0 is off.

    >>> import emag
    >>> emag.CSAPG(5.0, context="prompt:in the style of Monet").context_scale
    4.0
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
        new_level = moves_on(step, state)
        # p is e + (p - e) already, so w - 1 times each projected difference is left to add
        new = pred.double()
        if known(self.scale, step) != 1:
            scale = weight(self.scale, branches, step, state, new)
            new = new + (scale - 1) * self._step("text", pred, branches[Conditioned(self.context)], pred, new_level, state)
        if self.context_scale != 1:
            context = branches[Conditioned(self.context)], branches[UNCOND]
            new = new + (self.context_scale - 1) * self._step("context", *context, pred, new_level, state)
        return new.to(pred.dtype)

    def _step(self, name: str, strong: torch.Tensor, weak: torch.Tensor, onto: torch.Tensor,
              new: bool, state: dict[str, Any]) -> torch.Tensor:
        """A(strong - weak), with the momentum kept under `name`."""
        total = summed(strong.double() - weak.double(), self.momentum, False, new, state, name)
        parallel, orthogonal = project(capped(total, self.norm_threshold), onto.double())
        return orthogonal + self.eta * parallel
