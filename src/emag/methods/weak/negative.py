"""A negative prompt with a scale of its own."""

from dataclasses import dataclass

from ...core import COND, UNCOND, Conditioned, Perturbation
from ...errors import BadValue
from ..common.other_model import check_condition
from ..common.push import Push


@dataclass(frozen=True)
class Negative(Push):
    """Away from another prompt: p + (w - 1) (p_c - e(negative)), p_c the conditional prediction.

    A negative prompt that leaves the unconditional branch alone, with its own strength and, as scale=Interval(...), its own
    part of the run; the term that composition gives a negated concept (arXiv 2206.01714). negative: "prompt:a text", or a
    name from emag.guide(..., conditions=...).
    """

    negative: str = "negative"

    name = "negative"
    paper = "arXiv 2206.01714"
    equation = "p + (w - 1) (p_c - e(negative))"
    cost = "one evaluation of the conditional rows per step, under the other condition"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_condition(self.name, "negative", self.negative)
        if self.negative in (COND, UNCOND):
            raise BadValue("negative is another prompt, 'prompt:a text' or a name; away from 'uncond' is what cfg does")

    @property
    def perturbation(self) -> Perturbation:
        return Conditioned(self.negative)
