"""Autoguidance: push away from a worse network under the same condition."""

from dataclasses import dataclass

from ...core import Perturbation
from ..common.other_model import check_network, other
from ..common.push import Push


@dataclass(frozen=True)
class Autoguidance(Push):
    """Autoguidance: push away from a worse version of the network under the same condition.

    The prediction is D_g + w (D_m - D_g), D_g of the worse network and D_m of the pipeline's own. Linear: the same in
    every space. An evaluation of another network counts as one of the pipeline's own, whatever its size; seconds tell
    the difference.

    Args:
        scale: w, at least 0, or a schedule; 1 is off, and then the guide is not evaluated. Published for EDM2 at 512:
            2.1 (S, guided by XS at a sixteenth of its training). None takes the model's default, and is refused where
            there is none.
        model: the worse network, a name from emag.guide(..., models={name: network}), "load:..." with a folder or hub
            id, or "lora:0.5", the pipeline's own with half its LoRA scale (see `OtherModel`).

    >>> import emag
    >>> emag.Autoguidance(2.1, model="guide").equation
    'p + (w - 1) (p_c - g), g of a worse network'
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
