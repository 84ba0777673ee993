"""SINE: a share of the prediction from a network tuned on one image."""

from dataclasses import dataclass

from ...core import Perturbation
from ...errors import BadValue
from ..common.other_model import check_condition, check_network, other
from ..common.push import Push


@dataclass(frozen=True)
class SINE(Push):
    """Single-image editing (SINE): mix in the prediction of a network that was tuned on one image.

    p <- v p + (1 - v) e(c*), e of the tuned network and c* the text it was tuned with. With a combining rule after it
    (or the pipeline's own CFG) the result is u + w (v p + (1 - v) e - u).

    Args:
        scale: v, the share of the pipeline's own network, in [0, 1], or a schedule; 1 is off, and so are the steps
            outside an Interval. None takes the model's default, and is refused where there is none.
        model: the tuned network, a name from emag.guide(..., models={name: network}), "load:..." with a folder or hub
            id, or "lora:0.5" (see `OtherModel`).
        source: the name of c*: a condition from emag.guide(..., conditions=...), or "prompt:a text".

    >>> import emag
    >>> emag.SINE(0.7, model="tuned", source="prompt:a photo of sks dog").equation
    'v p + (1 - v) e(c*), e of a tuned network'
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
