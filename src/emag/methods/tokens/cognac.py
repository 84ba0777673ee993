"""What is to be said, and what is not."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import Branches, Perturbation, Step
from ...errors import BadValue
from .base import Scored, TokenRule


@dataclass(frozen=True)
class CognacGen(TokenRule):
    """CognacGen: raise the tokens of what is to be said, lower those of what is not.

    The scorer says of each next token whether it is wanted (above 0), unwanted (below 0) or neither: `emag.tokens.Phrases`
    makes one of lists of words; the authors ask a language model for them.

    Args:
        mention: beta, at least 0, added to what is wanted. 5 in the authors' command line.
        avoid: alpha, at least 0, taken from what is not. 100 there. Their README has the two the other way round.
        scorer: its name in emag.tokens.guide(..., scorers={name: ...}).

    >>> import emag
    >>> emag.tokens.CognacGen(mention=5.0, avoid=100.0).equation
    'log p + beta [wanted] - alpha [unwanted]'
    """

    mention: float = 5.0
    avoid: float = 100.0
    scorer: str = "scorer"

    name = "cognac-gen"
    paper = "arXiv 2212.10466"
    equation = "log p + beta [wanted] - alpha [unwanted]"
    kind = "after"
    cost = "what the scorer takes; none with lists of words"

    def __post_init__(self) -> None:
        if self.mention < 0 or self.avoid < 0:
            raise BadValue(f"cognac-gen needs mention and avoid of at least 0, got {self.mention} and {self.avoid}")

    @property
    def neutral(self) -> bool:
        return self.mention == 0 == self.avoid

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (Scored(self.scorer, signed=True),)

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        sign = branches[self.weak[0]]
        return pred + self.mention * (sign > 0) - self.avoid * (sign < 0)
