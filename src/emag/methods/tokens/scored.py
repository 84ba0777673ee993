"""Rules that weigh the next tokens by a model of a class: GeDi and CAIF."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import Branches, Perturbation, Step, TokenStep
from ...errors import BadValue
from ...maths.logits import biased, filtered, reweighted, token_entropy
from .base import Scored, TokenRule

OFF = 0.05
"""An entropy threshold below this, in nats, is none, as in the authors' code of CAIF."""


@dataclass(frozen=True)
class GeDi(TokenRule):
    """GeDi: weigh each next token by how well it fits a class, as two class-conditional language models tell.

    The scorer gives log P(class | text so far, token) for every token: `emag.tokens.ClassModel` makes one of a small
    model and two prompts. Tokens that fit least are then filtered out.

    Args:
        strength: omega, at least 0; 0 is off. 30 in the authors' code.
        mass: filter_p, in [0, 1): up to so much of the guided probability is filtered out; 0 is none. 0.8 there.
        target: target_p, in [0, 1]: a token of at least this class probability is never filtered out. 0.8 there.
        bias: class_bias, added to the odds of the class in log space; above 0 it makes unlikely tokens count as of the
            class. target is moved along, so that the same tokens are spared. 0 there, 2 where texts are to be harmless.
        scorer: its name in emag.tokens.guide(..., scorers={name: ...}).

    >>> import emag
    >>> emag.tokens.GeDi(strength=30.0).equation
    'log p + omega log P(class | token)'
    """

    strength: float = 30.0
    mass: float = 0.8
    target: float = 0.8
    bias: float = 0.0
    scorer: str = "scorer"

    name = "gedi"
    paper = "arXiv 2009.06367"
    equation = "log p + omega log P(class | token)"
    kind = "after"
    cost = "what the scorer takes: two passes of a small model a token"

    def __post_init__(self) -> None:
        if self.strength < 0 or not 0 <= self.mass < 1 or not 0 <= self.target <= 1:
            raise BadValue(f"gedi needs strength at least 0, mass in [0, 1) and target in [0, 1], got {self.strength}, "
                           f"{self.mass} and {self.target}")

    @property
    def neutral(self) -> bool:
        return self.strength == 0 and self.mass == 0

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (Scored(self.scorer),)

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        score = branches[self.weak[0]]
        # where the bias moves the target as far as the tokens, they are judged without it
        return filtered(reweighted(pred, biased(score, self.bias), self.strength), score, self.mass, self.target)


@dataclass(frozen=True)
class CAIF(TokenRule):
    """CAIF: weigh the likeliest next tokens by a text classifier on the text with that token added.

    All others are excluded, as in the paper: the classifier reads one text a candidate. Tokens between periods, and those of
    rows that are sure, are the model's own, and of them all.

    Args:
        strength: alpha, any finite number; 0 is off, below 0 goes away from the class. 5 in the authors' demo code.
        top: candidates, at least 1; 100 there.
        scorer: its name in emag.tokens.guide(..., scorers={name: ...}): a function of texts as token ids
            [rows, length] and candidates [rows, top] that returns log C, [rows, top]. The authors go away from a class by
            log(1 - C) with a strength above 0.
        period: every so many tokens are weighed, from the first one on, at least 1. 1 there.
        entropy: in nats; rows whose own distribution has less are left alone, and where all have, nothing is asked. Below
            0.05 it is off, as there. 0 there.

    >>> import emag
    >>> emag.tokens.CAIF(strength=5.0, top=20).equation
    'log p + alpha log C(text + token)'
    """

    strength: float = 5.0
    top: int = 100
    scorer: str = "scorer"
    period: int = 1
    entropy: float = 0.0

    name = "caif"
    paper = "arXiv 2205.07276"
    equation = "log p + alpha log C(text + token)"
    kind = "after"
    cost = "a classifier on `top` texts a token"

    def __post_init__(self) -> None:
        if self.top < 1 or self.period < 1 or self.entropy < 0:
            raise BadValue(f"caif needs top and period of at least 1 and entropy of at least 0, got {self.top}, "
                           f"{self.period} and {self.entropy}")

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (Scored(self.scorer, self.top),)

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return self.weak if step.index % self.period == 0 else ()

    def spares_weak(self, step: Step, state: dict[str, Any]) -> bool:
        return not bool(self._unsure(step).any())

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if self.weak[0] not in branches:
            return pred
        return torch.where(self._unsure(step)[:, None], reweighted(pred, branches[self.weak[0]], self.strength), pred)

    def _unsure(self, step: Step) -> torch.Tensor:
        """[rows]: which of those that are still written are weighed."""
        assert isinstance(step, TokenStep)
        return step.live if self.entropy < OFF else (token_entropy(step.cond) >= self.entropy) & step.live
