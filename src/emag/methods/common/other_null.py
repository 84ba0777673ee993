"""The unconditional prediction from another network: pretrained, or between pretrained and tuned."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Perturbation, Step
from ...errors import BadValue
from ...maths.predictions import DenoiserSpace, convert
from .null_branch import NullBranch
from .other_model import check_condition, check_network, other


@dataclass(frozen=True)
class OtherNull(NullBranch):
    """Base of rules u <- q(null), q of another network.

    Args:
        model: the other network: a name from emag.guide(..., models={name: network}), "load:..." with a folder or hub
            id, or "lora:0.5", the pipeline's own with half its LoRA scale (see `OtherModel`).
        null: what q is evaluated under. "uncond": the unconditional rows of the pipeline's call; or a condition by
            name, e.g. "prompt:" on pipelines that make two calls.
        prediction: the other network's space ("epsilon", "v", "flow" or "x0"), where it is not the pipeline's; None is
            the pipeline's. Noise levels must be the same.
    """

    model: str = "base"
    null: str = UNCOND
    prediction: DenoiserSpace | None = None

    cost = "none: the other network's evaluation is in the place of the unconditional one"

    def __post_init__(self) -> None:
        check_network(self.name, self.model)
        check_condition(self.name, "null", self.null)
        if self.null == COND:
            raise BadValue(f"{self.name} null is 'uncond' or a name: under the conditional rows' own, use autoguidance")

    @property
    def neutral(self) -> bool:
        branch = other(self.model, self.null)
        return branch.lora_scale == 1 and branch.null

    @property
    def perturbation(self) -> Perturbation:
        return other(self.model, self.null)

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        if self.perturbation not in branches:  # nobody reads UNCOND at this step
            return None
        source = self.prediction or step.space
        return convert(branches[self.perturbation], step.x, step.alpha, step.sigma, source, step.space)
