"""Perpendicular negative prompts."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Conditioned, Perturbation, Rule, Step
from ...errors import BadValue
from ...maths.vectors import project
from ...schedules import Scale, check_scale, known, weight
from ..common.other_model import check_negative


@dataclass(frozen=True)
class PerpNeg(Rule):
    """Perp-Neg: CFG with a negative prompt that can only take away what the prompt itself does not say.

    With P = p - u and N = n - u, n the prediction under the negative prompt: u + w (P - kappa (N - P_P N)), where P_P N
    is the part of N along P. Per sample, and the same in every space.

    Args:
        scale: w, at least 0, or a schedule. None takes the model's default.
        negative: what to push away from: "prompt:a text", or a name from emag.guide(..., conditions=...). Not "cond"
            or "uncond".
        kappa: weight of the negative prompt, at least 0; 0 is CFG. 1 in ComfyUI, 1.5 in the paper.

    >>> import emag
    >>> emag.PerpNeg(8.0, negative="prompt:side view").kappa
    1.0
    """

    scale: Scale | None = None
    negative: str = "negative"
    kappa: float = 1.0

    name = "perp-neg"
    paper = "arXiv 2304.04968"
    equation = "u + w (P - kappa (N - P_P N)), P = p - u, N = n - u"
    kind = "combining"
    cost = "one evaluation of the conditional rows per step, under the negative prompt"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        check_negative(self.name, self.negative)
        if self.kappa < 0:
            raise BadValue(f"perp-neg kappa must be at least 0 (0 is CFG), got {self.kappa}")

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (Conditioned(self.negative),) if self.kappa else ()

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return () if known(self.scale, step) == 0 else self.weak

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) != 1 or self.kappa > 0

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        wide, null = pred.double(), branches[UNCOND].double()
        scale = weight(self.scale, branches, step, state, wide)
        new = wide + (scale - 1) * (wide - null)
        if self.branches(step):
            _, across = project(branches[Conditioned(self.negative)].double() - null, wide - null)
            new = new - scale * self.kappa * across
        return new.to(pred.dtype)
