"""Skimmed guidance."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import Step
from ...errors import BadValue
from ..common.scaled import Scaled


@dataclass(frozen=True)
class SkimmedCFG(Scaled):
    """Skimmed CFG: a lower scale at just those entries where CFG pushes further in the direction of the value.

    Entries of the clean sample (x0) where guidance, the value and the move from x all have one sign are those that
    burn; there the scale is `skimming` instead of w. Done for the unconditional prediction first, then for the
    conditional one at w - 1, as the author's node does; so the scale at such an entry is w skimming / (w - 1).

    Args:
        scale: w, above 1 to act, or a schedule of time; 1 is off. None takes the model's default.
        skimming: s, the scale at such entries, at least 0. 2 to 3 strong, 4 moderate, 5 to 7 light, in the author's
            own words for it; 7 published.
        full: skim the unconditional prediction to 0.
        flip: look at the move from x too, as the node does.

    >>> import emag
    >>> emag.SkimmedCFG(8.0, 4.0).flip
    True
    """

    skimming: float = 7.0
    full: bool = False
    flip: bool = True

    name = "skimmed"
    paper = "Extraltodeus/Skimmed_CFG"
    equation = "u' + w (p' - u'), where on burning entries w becomes s"
    space = "x0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.skimming < 0:
            raise BadValue(f"skimmed skimming must be at least 0, got {self.skimming}")

    def joined(self, pred: torch.Tensor, null: torch.Tensor, scale: float | torch.Tensor, step: Step,
               state: dict[str, Any]) -> torch.Tensor:
        x, scale = self._noisy(step).to(pred), torch.as_tensor(scale).to(pred)
        null = self._skimmed(null, pred, x, scale, 0.0 if self.full else self.skimming)
        clean = self._skimmed(pred, null, x, scale - 1, self.skimming)
        return torch.where(scale == 1, pred, null + scale * (clean - null))

    def _noisy(self, step: Step) -> torch.Tensor:
        """x_t as the node sees it: in units of the clean sample on a path that scales it."""
        return step.x if step.path_space == "flow" else step.x / step.alpha

    def _skimmed(self, a: torch.Tensor, b: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, least: float) -> torch.Tensor:
        """`a` moved so that b + scale (a - b) is b + least (a - b) at burning entries."""
        guided = b + scale * (a - b)
        burning = ((a - b).sign() == a.sign()) & (guided.sign() == a.sign()) & (scale != 0)
        if self.flip:
            burning &= guided.sign() == (guided - x).sign()
        return torch.where(burning, a - (scale - least) * (a - b) / torch.where(scale != 0, scale, 1.0), a)
