"""Tangential amplifying guidance with a condition."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import Step
from ...errors import BadValue
from ...maths.vectors import divided, dot, norm, project
from ..common.scaled import Scaled


@dataclass(frozen=True)
class CTAG(Scaled):
    """Conditional tangential amplifying guidance: CFG, and a further push in its part that is orthogonal to x.

    With D = p - u, p the running prediction and u the unconditional one, and T = D - P_x D. Per sample, and the same
    in every space.

    Args:
        scale: w of CFG, at least 0, or a schedule. None takes the model's default.
        eta: size of the further push, at least 0; 0 is CFG. 1 is the paper's best, 3 harms.
        adaptive: give the push the length of D, so that it fades where the condition says little. As published (off)
            its length does not depend on D, and its direction is noise where p is close to u.

    >>> import emag
    >>> emag.CTAG(4.0, eta=0.0).kind
    'combining'
    """

    eta: float = 1.0
    adaptive: bool = False

    name = "c-tag"
    paper = "arXiv 2510.04533"
    equation = "u + w D + eta <p, T> / |T|^2 T, T = D - P_x D"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta < 0:
            raise BadValue(f"c-tag eta must be at least 0 (0 is CFG), got {self.eta}")

    def reads_null(self, step: Step) -> bool:
        return super().reads_null(step) or self.eta > 0

    def joined(self, pred: torch.Tensor, null: torch.Tensor, scale: float | torch.Tensor, step: Step,
               state: dict[str, Any]) -> torch.Tensor:
        wide, push = pred.double(), (pred - null).double()
        _, across = project(push, step.x.double())
        return wide + (scale - 1) * push + self.eta * self._length(wide, push, across) * across

    def _length(self, pred: torch.Tensor, push: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
        """k: what the tangent T is multiplied by. T is orthogonal to x, so <p, T> / |T|^2 is the same in every space."""
        share = divided(dot(pred, across), dot(across, across))
        return share.sign() * divided(norm(push), norm(across)) if self.adaptive else share
