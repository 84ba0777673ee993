"""A negative prompt with a scale of its own."""

from dataclasses import dataclass

from ...core import Conditioned, Perturbation, check_tokens
from ...errors import BadValue
from ..common.other_model import check_negative
from ..common.push import Push


@dataclass(frozen=True)
class Negative(Push):
    """A negative prompt with a scale of its own: push away from the prediction under another prompt.

    It adds (w - 1) (p_c - e(negative)), p_c the conditional prediction. The unconditional branch is left alone. The
    negative prompt so has its own strength and, as scale=Interval(...), its own part of the run. It is the term that
    composition gives a negated concept (arXiv 2206.01714).

    Args:
        negative: what to push away from: "prompt:a text", or a name from emag.guide(..., conditions=...). Not "cond"
            or "uncond": away from "uncond" is what `CFG` does.

    >>> import emag
    >>> early = emag.Interval(3, 0, 0.5, "progress")  # in the first half of the run alone
    >>> emag.Negative(early, negative="prompt:blurry").equation
    'p + (w - 1) (p_c - e(negative))'
    """

    negative: str = "negative"

    name = "negative"
    paper = "arXiv 2206.01714"
    equation = "p + (w - 1) (p_c - e(negative))"
    cost = "one evaluation of the conditional rows per step, under the other condition"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_negative(self.name, self.negative)

    @property
    def perturbation(self) -> Perturbation:
        return Conditioned(self.negative)

    def fits_tokens(self, timed: bool) -> None:
        check_tokens(self.name, self.scale, timed)
        if self.every != 1 or self.agree != -1:
            raise BadValue("negative every and agree carry a direction from step to step, and the next token has another "
                           "one: leave them out")
