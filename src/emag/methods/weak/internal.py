"""Internal guidance: away from what the network itself predicts half way through."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Perturbation, Rows, Rule, Side, State, Step
from ...errors import Unsupported
from ...maths.streams import Streams
from ...schedules import Scale, at_time, check_scale, check_timed
from ..common.sides import sides


@dataclass(frozen=True)
class EarlyPrediction(Perturbation):
    """An observer: what the network's intermediate head predicts in the clean pass, for both conditions."""

    @property
    def observes(self) -> bool:
        return True

    @property
    def sees_early(self) -> bool:
        return True

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return EarlyState()


class EarlyState(State):
    """The intermediate predictions of one step, by side, [samples, ...] fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[Side, torch.Tensor] = {}

    def begin(self, index: int) -> None:
        super().begin(index)
        self.found = {}

    @property
    def watches(self) -> bool:
        return True

    @property
    def seen(self) -> dict[Side, torch.Tensor]:
        return self.found

    def look_early(self, prediction: torch.Tensor, rows: Rows) -> None:
        self.found.update((side, prediction[part]) for side, part in sides(rows))


@dataclass(frozen=True)
class InternalGuidance(Rule):
    """Internal guidance: push both predictions away from those of a head half way through the same network.

    p <- p + (w - 1) (final - early), for the conditional and for the unconditional prediction, each with its own; then
    whatever combines. The early prediction is that of a trained head behind some block, in the same pass: it costs no
    evaluation. Only networks trained with such a head have one: a submodule `early_head` (or what `early_head` of the
    network's entry names) that gives a prediction in the form of the network's answer. None of the published classes
    that this package knows has one, nor has an embedded model; there it is refused.

    Args:
        scale: w, at least 0, or a schedule of time; 1 is off. None takes the model's; the authors' 1.4 on SiT-XL and,
            beside CFG, on LightningDiT, 1.7 there without CFG.

    >>> import emag
    >>> [rule.kind for rule in (emag.InternalGuidance(1.4), emag.CFG(1.35))]
    ['weak', 'combining']
    """

    scale: Scale | None = None

    name = "internal-guidance"
    paper = "arXiv 2512.24176"
    equation = "p + (w - 1) (final - early), u alike"
    kind = "weak"
    cost = "none; the head is a part of the network"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        check_timed(self.name, self.scale, "works on both predictions before they are combined")

    @property
    def neutral(self) -> bool:
        return self.scale == 1

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        if network.early_head is None:
            raise Unsupported(f"{self.name} needs a network trained with an intermediate head, and this "
                              f"{network.backbone.name} has no submodule {network.backbone.early_head!r}: use another weak "
                              "branch, e.g. emag")

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (EarlyPrediction(),)

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        return self._pushed(branches[UNCOND], UNCOND, branches, step) if UNCOND in branches else None

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        return self._pushed(pred, COND, branches, step)

    def _pushed(self, pred: torch.Tensor, side: Side, branches: Branches, step: Step) -> torch.Tensor:
        scale, early = at_time(self.scale, step), step.seen[EarlyPrediction()].get(side)
        if scale == 1:
            return pred
        if early is None:
            raise Unsupported(f"{self.name} pushes both predictions away from their own early ones, and this step's {side} "
                              "one was given by another rule: leave out what spares or replaces it")
        return pred + (scale - 1) * (branches[side] - early.to(pred.dtype))
