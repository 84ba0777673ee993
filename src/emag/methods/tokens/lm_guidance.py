"""Captions guided by a language model that sees no image."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Perturbation, Step
from ...errors import BadValue
from .base import Scored, TokenRule


@dataclass(frozen=True)
class LMGuidance(TokenRule):
    """Language-model guidance of captions: a second model says what texts are like, the captioner what it sees.

    The exponents need not sum to 1, as the weights of CFG and compose do: alpha above beta is allowed in the paper, and
    makes the distribution sharper. Where both are 1 and q is the captioner without an image, it is the captioner itself.

    Args:
        alpha: exponent of the captioner's p(token | image), at least 0. The paper's value is unconfirmed, hence no default.
        beta: exponent of its p(token) without the image (null=), which is divided by, at least 0; at 0 the null is not
            evaluated. The paper's value is unconfirmed, hence no default.
        scorer: name of q in emag.tokens.guide(..., scorers={name: ...}); `emag.tokens.LanguageModel` makes one.

    >>> import emag
    >>> emag.tokens.LMGuidance(alpha=1.2, beta=0.8).equation
    'log q + alpha p - beta u'
    """

    alpha: float | None = None
    beta: float | None = None
    scorer: str = "scorer"

    name = "lm-guidance"
    paper = "arXiv 2307.16686"
    equation = "log q + alpha p - beta u"
    kind = "combining"
    cost = "a pass of the language model a token"

    def __post_init__(self) -> None:
        given = [value for value in (self.alpha, self.beta) if value is not None]
        if any(value < 0 for value in given):
            raise BadValue(f"lm-guidance needs alpha and beta of at least 0, got {self.alpha} and {self.beta}")

    def fits_tokens(self, timed: bool) -> None:
        if self.alpha is None or self.beta is None:
            raise BadValue("lm-guidance has no default exponents: give both, e.g. lm-guidance=1,beta=1")

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (Scored(self.scorer),)

    def reads_null(self, step: Step) -> bool:
        return self.beta != 0

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        assert self.alpha is not None and self.beta is not None
        guided = branches[self.weak[0]] + self.alpha * pred
        return guided - self.beta * branches[UNCOND] if self.beta else guided
