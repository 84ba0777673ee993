"""What rules for tokens alone have in common."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import Perturbation, Rule, RunStart
from ...errors import Unsupported


@dataclass(frozen=True)
class TokenRule(Rule):
    """Base of rules on log-probabilities of tokens. Whatever draws images refuses them."""

    space = "logp"

    def fits_network(self, network: Any) -> None:
        raise Unsupported(f"{self.name} is about the next token of a text, and here images are made: use it in "
                          "emag.tokens.guide")

    def fits_run(self, start: RunStart) -> None:
        self.fits_network(None)

    def fits_tokens(self, timed: bool) -> None:
        """A rule for tokens fits, where it says nothing else."""


@dataclass(frozen=True)
class Scored(Perturbation):
    """A branch whose prediction is a score of each next token: log-probability of a class, by a scorer of the user's.

    Args:
        scorer: its name in emag.tokens.guide(..., scorers={name: ...}).
        top: how many of the likeliest tokens it is asked about; 0 is all.
        signed: it says what is wanted (above 0) and what is not (below 0), and not log-probabilities.
    """

    scorer: str
    top: int = 0
    signed: bool = False

    @property
    def model(self) -> str | None:
        return self.scorer


def best(cond: torch.Tensor, top: int) -> torch.Tensor:
    """The `top` likeliest tokens of each row of cond [rows, vocabulary], [rows, top]; 0 is all of them, in order."""
    rows, size = cond.shape
    if not 0 < top < size:
        return torch.arange(size, device=cond.device).expand(rows, size)
    return cond.topk(top, dim=-1).indices
