"""A network that has learnt guidance, and the guided one it learnt from."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Perturbation, Rule, Step
from ...errors import BadValue
from ...schedules import Scale, at_time, check_scale, check_timed
from ..common.other_model import check_condition, check_network, other


@dataclass(frozen=True)
class CoRe2(Rule):
    """CoRe^2: guided predictions, pushed away from those of a network that has learnt them; later that one alone.

    The pipeline's own network p is one trained to predict what guidance would, such as with an adapter of `emag bake`.
    In the first steps the plain network q is guided, and the result goes from p through its guided prediction and
    beyond: p + w2s (q_u + w (q_c - q_u) - p), the weak to strong guidance of the paper. From then on p is enough, at one
    evaluation a step. The authors' p is a small network of their own, whose weights are not here.

    Args:
        scale: w2s, at least 0, or a schedule of time: 0 is p alone (off), 1 the guided q. 1.5 published, on SD3.5. None
            takes the model's default.
        guidance: w, a finite number: CFG of q. 3.5 published.
        until: share of the run, in [0, 1], in which q is evaluated; 0 is off. Where the authors stop is unconfirmed: 0.5
            is an untested default.
        model: q, "lora:0" (the pipeline's network without its adapter), a name from emag.guide(..., models=...) or
            "load:..." with a folder or hub id.
        null: the condition without a prompt: "uncond", or one by name where the pipeline makes no unconditional rows.

    >>> import emag
    >>> emag.CoRe2(1.5, null="prompt:").kind
    'combining'
    """

    scale: Scale | None = None
    guidance: float = 3.5
    until: float = 0.5
    model: str = "lora:0"
    null: str = UNCOND

    name = "core2"
    paper = "arXiv 2503.09662"
    equation = "p + w2s (q_u + w (q_c - q_u) - p) until a share of the run, then p; p has learnt guidance, q has not"
    kind = "combining"
    cost = "two evaluations per step by the plain network in the first share of the run; none of the unconditional rows"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        check_timed(self.name, self.scale, "reads no unconditional prediction of the pipeline")
        check_network(self.name, self.model)
        check_condition(self.name, "null", self.null)
        if not math.isfinite(self.guidance) or not 0 <= self.until <= 1:
            raise BadValue(f"core2 needs a finite guidance and until in [0, 1], got {self.guidance} and {self.until}")

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return () if self.scale == 0 or self.until == 0 else (other(self.model), other(self.model, self.null))

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return self.weak if step.index < self.until * step.count and at_time(self.scale, step) != 0 else ()

    def reads_null(self, step: Step) -> bool:
        return False

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        pair = self.branches(step)
        if not pair:
            return pred
        plain, null = (branches[branch] for branch in pair)
        guided = null + self.guidance * (plain - null)
        return pred + at_time(self.scale, step) * (guided - pred)
