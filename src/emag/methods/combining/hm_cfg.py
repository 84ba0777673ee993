"""Classifier-free guidance by two networks at once."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...core import COND, UNCOND, Branches, Perturbation, Rule, Step
from ...errors import BadValue
from ...schedules import Scale, check_scale, known, weight
from ..common.other_model import OtherModel, check_condition, check_network, other
from .compose import ROUNDING

HMMinus = Literal["base null", "base", "own null"]


@dataclass(frozen=True)
class HMCFG(Rule):
    """Hybrid-model guidance: a push of a base network beside that of the pipeline's personalised one.

    In the style of the paper: b(null) + w_b (b(c_b) - b(null)) + w_p (p - q). b is the base network, p the running
    prediction of the pipeline's personalised one. The paper's expression, scales and schedule are unconfirmed: this
    is the general form.

    Args:
        scale: w_p, at least 0, or a schedule. With base_scale 0 and minus "base null", 1 is off.
        base_scale: w_b, any finite number; 0 leaves the base's guidance out. 3 is an untested default.
        model: the base, a name from emag.guide(..., models=...), or "lora:0", the pipeline's network without its
            LoRA.
        text: c_b, the base's condition: "cond" or a condition by name (a prompt without the personal word).
        minus: q. "base null": b(null). "base": b under c_b. "own null": the pipeline's unconditional prediction.
        null: the base's condition without a prompt: "uncond" or a condition by name.

    >>> import emag
    >>> rule = emag.HMCFG(2.0, model="lora:0", text="prompt:a photo of a dog")
    >>> [branch.condition or "uncond" for branch in rule.weak]  # what the base evaluates
    ['uncond', 'prompt:a photo of a dog']
    """

    scale: Scale | None = None
    base_scale: float = 3.0
    model: str = "base"
    text: str = COND
    minus: HMMinus = "base null"
    null: str = UNCOND

    name = "hm-cfg"
    paper = "arXiv 2511.03156"
    equation = "b(null) + w_b (b(c_b) - b(null)) + w_p (p - q)"
    kind = "combining"
    cost = "one or two evaluations per step by the base network; often none of the unconditional rows"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        check_network(self.name, self.model)
        check_condition(self.name, "text", self.text)
        check_condition(self.name, "null", self.null)
        if not math.isfinite(self.base_scale):
            raise BadValue(f"hm-cfg base_scale must be a finite number (0 is off), got {self.base_scale}")

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        constant = self.scale if isinstance(self.scale, (int, float)) else math.nan
        return self._active(constant)

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return self._active(self._known(step))

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) is None or abs(self._weights(self._known(step)).get(UNCOND, 0.0)) > ROUNDING

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        scale, new = weight(self.scale, branches, step, state, pred), pred
        for name, share in self._weights(scale).items():  # all shares and w_p add up to 1, so this is the sum itself
            if name in branches:
                new = new + share * (branches[name] - pred)
        return new

    def _known(self, step: Step) -> float:
        scale = known(self.scale, step)
        return math.nan if scale is None else scale

    def _weights(self, scale: Any) -> dict[Hashable, Any]:
        """What each branch but the running prediction weighs."""
        null, base = other(self.model, self.null), other(self.model, self.text)
        found: dict[Hashable, Any] = {null: 1.0 - self.base_scale}
        found[base] = found.get(base, 0.0) + self.base_scale
        minus = {"base null": null, "base": base, "own null": UNCOND}[self.minus]
        # q may be one of the branches that are there already: weights of one branch add up
        found[minus] = found.get(minus, 0.0) - scale
        return found

    def _active(self, scale: float) -> tuple[OtherModel, ...]:
        return tuple(branch for branch, share in self._weights(scale).items()
                     if isinstance(branch, OtherModel) and not abs(share) <= ROUNDING)
