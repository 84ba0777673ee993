"""STG: skipped blocks, or skipped self-attention, of video models."""

from dataclasses import dataclass
from typing import Literal

from ...core import Perturbation
from ..common.push import Push
from .pag import PAG
from .slg import SLG

STGForm = Literal["residual", "attention"]


@dataclass(frozen=True)
class STG(Push):
    """Spatiotemporal skip guidance: push away from a network that skips blocks, or their self-attention.

    It was made for video models. Its two forms are those of `SLG` and `PAG`.

    Args:
        layers: blocks to perturb, by number; None takes the model's, or the middle one, as "auto" does (the authors
            choose one per video model).
        form: "residual" skips whole blocks, which is `SLG`. "attention" replaces their self-attention map by the
            identity, which is `PAG` with form "joint".

    >>> import emag
    >>> same = emag.PAG(2, layers=(20,), form="joint")
    >>> emag.STG(2, layers=(20,), form="attention").perturbation == same.perturbation
    True
    """

    layers: tuple[int, ...] | None = None
    form: STGForm = "residual"

    name = "stg"
    paper = "arXiv 2411.18664"

    def __post_init__(self) -> None:
        super().__post_init__()

    @property
    def perturbation(self) -> Perturbation:
        if self.form == "residual":
            return SLG(layers=self.layers).perturbation
        return PAG(layers=self.layers, form="joint").perturbation
