"""Two networks, or one with and without its LoRA: the predictions of both, mixed."""

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadValue
from ..guidance import COND, UNCOND, Branches, Rule, Step
from ..perturbations.base import Perturbation
from ..perturbations.other_model import check_condition, check_network, other
from ..perturbations.push import Push
from ..schedules import Scale, at_time, check_timed
from .cfg import extrapolate


@dataclass(frozen=True)
class Autoguidance(Push):
    """Autoguidance, arXiv 2406.02507: D_g + w (D_m - D_g), D_g a worse version of the network under the same condition.

    model: the worse network, a name from emag.guide(..., models={name: network}), "load:..." with a folder or hub id, or
    "lora:0.5" (see `OtherModel`). scale: w, at least 0, or a schedule; 1 is off, and then the guide is not evaluated.
    Published for EDM2 at 512: 2.1 (S, guided by XS at a sixteenth of its training). Linear: the same in every space.
    An evaluation of another network counts as one of the pipeline's own, whatever its size; seconds tell the difference.
    """

    model: str = "guide"

    name = "autoguidance"
    paper = "arXiv 2406.02507"
    equation = "p + (w - 1) (p_c - g), g of a worse network"
    cost = "one evaluation of the conditional rows per step, by the other network"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self.name, self.model)

    @property
    def perturbation(self) -> Perturbation:
        return other(self.model)


@dataclass(frozen=True)
class SINE(Push):
    """SINE, arXiv 2212.04489: p <- v p + (1 - v) e(c*), e of a network tuned on one image, c* the text it was tuned with.

    With a combining rule after it (or the pipeline's own CFG) the result is u + w (v p + (1 - v) e - u). scale: v in [0, 1],
    or a schedule; 1 is off, and so are the steps outside an Interval. model: see `Autoguidance`. source: the name of c*.
    """

    model: str = "tuned"
    source: str = "source"

    name = "sine"
    paper = "arXiv 2212.04489"
    equation = "v p + (1 - v) e(c*), e of a tuned network"
    cost = "one evaluation of the conditional rows per step, by the other network"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self.name, self.model)
        check_condition(self.name, "source", self.source)
        if isinstance(self.scale, (int, float)) and self.scale > 1:
            raise BadValue(f"sine scale is v, the share of the pipeline's own network, in [0, 1], got {self.scale}")

    @property
    def perturbation(self) -> Perturbation:
        return other(self.model, self.source)


@dataclass(frozen=True)
class TwoModels(Rule):
    """Base of q + w (p - q), with p of the pipeline's network and q of another one, both guided alike.

    Guidance is linear in the predictions, so the conditional and the unconditional ones are each moved, before anything
    combines them: p_c <- q_c + w (p_c - q_c), and u likewise. Name it before the rule that combines.
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


@dataclass(frozen=True)
class RLG(TwoModels):
    """Reinforcement-learning guidance, arXiv 2508.21016: p_ref + w (p_RL - p_ref), both guided with the same scale.

    The pipeline holds the tuned network. model: the one it was tuned from: "lora:0" where the tuning is a LoRA, else a name
    from emag.guide(..., models=...). scale: w, finite, or a schedule of time: 0 the reference, 1 the tuned network (off),
    published 1 to 3. null: "uncond" takes the unconditional rows of the pipeline's call; on pipelines that make two calls
    name the condition, e.g. "prompt:". First steps with the tuned network alone (the authors' zero_init_step): an Interval.
    Where there is no unconditional prediction, `Autoguidance` with this model is the same formula.
    """

    name = "rlg"
    paper = "arXiv 2508.21016"
