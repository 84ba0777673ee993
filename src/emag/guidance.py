"""The algebra: a guidance is an ordered list of rules, frozen values that rewrite a running prediction.

A rule may change the condition before the clean pass (`condition`), ask for weak branches (`branches`) and
rewrite the running prediction (`apply`). It knows nothing of images, networks or hosts.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from .perturbations.base import Perturbation
from .streams import Streams

COND, UNCOND = "cond", "uncond"

Branches = Mapping[Hashable, torch.Tensor]
"""Predictions of one step by branch: COND, UNCOND (where there is one) and every weak branch asked for."""


@dataclass(frozen=True)
class Step:
    """Where a run is: what rules may know of one denoising step.

    `index` counts distinct timesteps from 0 (noisiest) to `count - 1`; `time` is the timestep as a fraction of the
    training schedule (1 is noise); x = alpha x0 + sigma epsilon; `x` is x_t of the conditional rows in fp32,
    shape [batch, ...]; `space` is the network's own prediction space.
    """

    index: int
    sigmas: tuple[float, ...]
    time: float
    alpha: float
    sigma: float
    space: str
    x: torch.Tensor = field(repr=False)
    streams: Streams = field(repr=False)
    branch: str = COND

    @property
    def count(self) -> int:
        return len(self.sigmas)


@dataclass(frozen=True)
class Rule:
    """Base of all rules. Subclasses are frozen dataclasses whose fields are plain data (they become recipes)."""

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    equation: ClassVar[str] = ""
    space: ClassVar[str | None] = None  # the space `apply` works in; None where any affine space gives the same
    combines: ClassVar[bool] = False  # True where the rule joins COND and UNCOND and so replaces the host's CFG
    noises: ClassVar[bool] = False  # True where `condition` changes anything

    @property
    def neutral(self) -> bool:
        """True where the parameters switch the rule off; it is then left out of the run altogether."""
        return False

    def condition(self, cond: dict[str, torch.Tensor], step: Step) -> dict[str, torch.Tensor]:
        """New values of the condition tensors, each [batch, ...], the same for all branches of the step."""
        return cond

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        """Weak branches the rule may ask for."""
        return ()

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        """Weak branches needed at this step."""
        return tuple(branch for branch in self.weak if branch.runs(step.index, step.sigmas))

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        """New running prediction, [batch, ...] fp32, in `space`. `state` is this rule's own, and dies with the run."""
        return pred


def combine(rules: tuple[Rule, ...], pred: torch.Tensor, branches: Branches, step: Step,
            states: list[dict[str, Any]]) -> torch.Tensor:
    """Apply `rules` in order to `pred`, in fp32. A rule that declares a space sees everything in that space.

    The step a rule makes is carried back as a difference, so a rule that changes nothing gives `pred` bit for bit.
    """
    for rule, state in zip(rules, states, strict=True):
        if rule.space in (None, step.space):
            pred = rule.apply(pred, branches, step, state)
            continue
        pred = pred + _difference(rule, rule.space, pred, branches, step, state)
    return pred


def _difference(rule: Rule, space: str | None, pred: torch.Tensor, branches: Branches, step: Step,
                state: dict[str, Any]) -> torch.Tensor:
    from .predictions import convert, difference_scale

    assert space is not None
    at = (step.x, step.alpha, step.sigma, step.space, space)
    here = convert(pred, *at)
    there = {name: convert(p, *at) for name, p in branches.items()}
    moved = rule.apply(here, there, step, state) - here
    return moved * difference_scale(step.alpha, step.sigma, space, step.space)
