"""An objective as one call in a trainer of your own: loss, metrics and baked scale of a batch and a step."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadValue
from ..maths.vectors import extrapolate
from .guided_targets import Coefficient, distillation_loss, guidance_loss, model_guidance_loss
from .rows import fixed, row_errors
from .table import OBJECTIVES

Predict = Callable[[Any], torch.Tensor]
"""Predictions [batch, ...] for the inputs of a batch, in the space of its target."""


@dataclass(frozen=True)
class TrainingBatch:
    """One batch of a trainer.

    cond, null: what networks are asked with, at the same x_t, under the conditions and without any; null is a value of its
    own, not `cond` changed in place. target: the plain one (noise, or velocity), [batch, ...]. dropped: [batch] bool, rows
    whose condition was dropped in `cond`; None: none was.
    """

    cond: Any
    null: Any
    target: torch.Tensor
    dropped: torch.Tensor | None = None


@dataclass(frozen=True)
class TrainingLoss:
    """What an objective says of a step.

    loss: to go back from. metrics: scalars to log: "plain", the mean square error to the plain target, and "guidance", the
    root mean square of the teacher's conditional less its null prediction. baked_scale: w where training at this scale ends.
    """

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]
    baked_scale: float


@dataclass(frozen=True)
class GuidedObjective:
    """A loss whose target is guided: `GuidedObjective("guidance-loss", 3.5)(student, batch, step)`.

    name: "agd", "guidance-loss" or "model-guidance" of `OBJECTIVES`. scale: its knob, a number or a function of the step.
    teacher: who gives the predictions of the target, e.g. the frozen network or an averaged copy under `as_teacher`; None
    is the student itself, which "agd" refuses. Where it is a module it is asked in eval mode; in a function of yours dropout
    is yours to switch off. convention: of Model-Guidance alone. Raises `BadValue`.
    """

    name: str
    scale: float | Callable[[int], float]
    teacher: Predict | None = None
    convention: Coefficient = "printed"

    def __post_init__(self) -> None:
        if self.name not in ("agd", "guidance-loss", "model-guidance"):
            raise BadValue(f"a guided objective is agd, guidance-loss or model-guidance, got {self.name!r}; the others of "
                           "emag.objectives have arguments of their own")
        if self.name == "agd" and self.teacher is None:
            raise BadValue("agd needs a teacher: a student that follows its own guided answer runs away")
        if not callable(self.scale) and not math.isfinite(self.scale):
            raise BadValue(f"scale must be a finite number, got {self.scale}")

    def __call__(self, student: Predict, batch: TrainingBatch, step: int) -> TrainingLoss:
        """student: its prediction, with gradients. step: of the training, from 0. Raises `BadValue`."""
        scale = self.scale(step) if callable(self.scale) else self.scale
        if _alias(batch.cond, batch.null):
            raise BadValue("cond and null of this batch are the very same inputs, so nothing would be guided: null is what "
                           "the network is asked with where there is no condition")
        teacher = student if self.teacher is None else self.teacher
        with _asking(teacher):
            cond, null = (fixed(teacher(inputs)) for inputs in (batch.cond, batch.null))
        made = student(batch.cond)
        knobs = {"convention": self.convention} if self.name == "model-guidance" else {}
        return TrainingLoss(self._loss(made, batch, cond, null, scale),
                            {"plain": row_errors(made, batch.target).mean().detach(),
                             "guidance": (cond - null).square().mean().sqrt()},
                            OBJECTIVES[self.name].baked(scale, **knobs))  # type: ignore[misc]

    def _loss(self, made: torch.Tensor, batch: TrainingBatch, cond: torch.Tensor, null: torch.Tensor, scale: float
              ) -> torch.Tensor:
        if self.name == "agd":
            # in a row without a condition both predictions are one, and so is what guidance makes of them
            return distillation_loss(made, extrapolate(null, cond, scale))
        if self.name == "guidance-loss":
            return guidance_loss(made, batch.target, null, scale, batch.dropped)
        return model_guidance_loss(made, batch.target, cond, null, scale, batch.dropped, self.convention)


def _alias(one: Any, other: Any) -> bool:
    """Whether two inputs are one object, or hold one another's: MeanAudio's code drops the conditions of both so."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alias(one[name], other[name]) for name in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_alias, one, other))
    return one is other


def _asking(teacher: Predict) -> AbstractContextManager[Any]:
    """A target lets no gradient through, so what makes it needs none; nor does it draw anything at random."""
    return as_teacher(teacher) if isinstance(teacher, torch.nn.Module) else torch.no_grad()


@contextmanager
def as_teacher(network: torch.nn.Module, adapters: bool = True) -> Iterator[torch.nn.Module]:
    """A network in eval mode and without gradients, until the block ends: nothing is drawn at random in a target.

    adapters: False takes its LoRA off as well, so that the frozen base needs no copy. Raises `BadValue` where it has none.
    """
    training = {module: module.training for module in network.modules()}
    changed: Any = network
    if not adapters and not getattr(network, "peft_config", None):
        raise BadValue("this network has no adapter that could be taken off: leave adapters=False out")
    try:
        network.eval()
        if not adapters:
            changed.disable_adapters()
        with torch.no_grad():
            yield network
    finally:
        if not adapters:
            changed.enable_adapters()
        for module, was in training.items():
            module.training = was
