"""SINE: a share of the prediction from a network tuned on one image."""

from dataclasses import dataclass

from ...core import Perturbation
from ...errors import BadValue
from ..common.other_model import check_condition, check_network, other
from ..common.push import Push


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
