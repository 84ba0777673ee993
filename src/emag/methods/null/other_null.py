"""The unconditional prediction from another network: pretrained, or between pretrained and tuned."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Perturbation, Step
from ...errors import BadValue
from ...maths.predictions import SPACES, convert
from ..common.null_branch import NullBranch
from ..common.other_model import LORA, check_condition, check_network, other


@dataclass(frozen=True)
class OtherNull(NullBranch):
    """Base of rules u <- q(null), q of another network.

    model: a name from emag.guide(..., models={name: network}), or "lora:0.5" (see `OtherModel`). null: "uncond", the
    unconditional rows of the pipeline's call; or a condition by name, e.g. "prompt:" on pipelines that make two calls.
    prediction: the other network's space, where it is not the pipeline's; noise levels must be the same.
    """

    model: str = "base"
    null: str = UNCOND
    prediction: str | None = None

    cost = "none: the other network's evaluation is in the place of the unconditional one"

    def __post_init__(self) -> None:
        check_network(self.name, self.model)
        check_condition(self.name, "null", self.null)
        if self.null == COND:
            raise BadValue(f"{self.name} null is 'uncond' or a name: under the conditional rows' own, use autoguidance")
        if self.prediction is not None and self.prediction not in SPACES:
            raise BadValue(f"{self.name} prediction must be one of {', '.join(SPACES)} or None, got {self.prediction!r}")

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


@dataclass(frozen=True)
class Domain(OtherNull):
    """Domain guidance, arXiv 2504.01521: q(null) + w (p - q(null)), the pipeline's network tuned on a domain, q pretrained.

    model: the pretrained network. null: "uncond", or a label of the pretraining by name (which of the two the paper
    means is unconfirmed). The scale is that of what combines; the paper's is unconfirmed. See `OtherNull`.
    """

    model: str = "pretrained"

    name = "domain"
    paper = "arXiv 2504.01521"
    equation = "u <- q(null), q the pretrained network"


@dataclass(frozen=True)
class Priors(OtherNull):
    """Unconditional priors, arXiv 2503.20240 Eq. 7: u <- q(null), q the base of a tuned network, or any better one.

    model: may be of another architecture, if latents and noise levels agree; call it by a function of the pipeline network's
    arguments, and say its `prediction`. The scale is that of what combines. See `OtherNull`.
    """

    name = "priors"
    paper = "arXiv 2503.20240"
    equation = "u <- q(null), q a better unconditional network"


@dataclass(frozen=True)
class Personalization(OtherNull):
    """Personalization guidance, arXiv 2508.00319: u <- q(null), q with weights between pretrained and tuned.

    The pipeline holds the tuned network. model: "lora:0.5" where the tuning is a LoRA: weights W0 + 0.5 dW, exactly; else
    the name of what `interpolated(pretrained, tuned, 0.5)` gives. A share omega of 1 is CFG on the tuned network (off), 0 is
    `Domain`. Which end the paper counts from, and its values, are unconfirmed: 0.5 is an untested default. See `OtherNull`.
    """

    model: str = f"{LORA}0.5"

    name = "personalization"
    paper = "arXiv 2508.00319"
    equation = "u <- q(null), q of weights (1 - omega) W0 + omega W1"
