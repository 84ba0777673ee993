"""Two networks, or one with and without its LoRA: the predictions of both, mixed."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Perturbation, Rule, Scale, Step, at_time, check_timed
from ...errors import BadValue
from ...maths.vectors import extrapolate
from .other_model import check_condition, check_network, other


@dataclass(frozen=True)
class TwoModels(Rule):
    """Base of q + w (p - q), with p of the pipeline's network and q of another one, both guided alike.

    Guidance is linear in the predictions, so the conditional and the unconditional ones are each moved, before
    anything combines them: p_c <- q_c + w (p_c - q_c), and u likewise. Name it before the rule that combines.

    Args:
        scale: w, a finite number or a schedule of time. 0 is the other network, 1 the pipeline's own (off); None takes
            the model's default, and is refused where there is none.
        model: the other network: a name from emag.guide(..., models={name: network}), "load:..." with a folder or hub
            id, or "lora:0", the pipeline's own without its LoRA (see `OtherModel`).
        null: what the unconditional predictions are. "uncond": the unconditional rows of the pipeline's call; on
            pipelines that make two calls, the name of the condition, e.g. "prompt:".
    """

    scale: Scale | None = None
    model: str = "lora:0"
    null: str = UNCOND

    equation = "q + w (p - q) for both branches, q of another network"
    kind = "null"
    cost = "two evaluations per step by the other network, conditional and unconditional"

    def __post_init__(self) -> None:
        check_network(self.name, self.model)
        check_condition(self.name, "null", self.null)
        if self.null == COND:
            raise BadValue(f"{self.name} null is 'uncond' or the name of an unconditional condition, e.g. 'prompt:'")
        check_timed(self.name, self.scale, "moves both branches by one scale")

    @property
    def neutral(self) -> bool:
        return self.scale == 1

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return other(self.model), other(self.model, self.null)

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return () if at_time(self.scale, step) == 1 else self.weak

    def unread(self, step: Step) -> tuple[Perturbation, ...]:
        return self.branches(step)[:1]

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        if UNCOND not in branches or self.weak[1] not in branches:
            return None
        return extrapolate(branches[self.weak[1]], branches[UNCOND], at_time(self.scale, step))

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if self.weak[0] not in branches:
            return pred
        return pred + (at_time(self.scale, step) - 1) * (branches[COND] - branches[self.weak[0]])
