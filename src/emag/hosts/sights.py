"""What a denoiser function gives rules that look further: scores, how they see x0, and predictions at another x."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..core import Branches, Part, Score, Step

Decode = Callable[[torch.Tensor], torch.Tensor]
"""x0 [batch, ...] -> images [batch, 3, height, width] in [0, 1], or whatever else scores see; differentiable."""


@dataclass(frozen=True)
class Sights:
    """What rules that look further are given: scores by name, and how x0 [batch, ...] becomes what those see."""

    scores: Mapping[str, Score]
    decode: Decode


@dataclass(frozen=True)
class Elsewhere:
    """Clean predictions of one step at another x, by calls of the denoiser. evaluate: (x, step, name) -> one of them."""

    sights: Sights
    evaluate: Callable[[torch.Tensor, Step, str], torch.Tensor]

    def branches(self, x: torch.Tensor, names: Sequence[str], at: Step) -> Branches:
        return {name: self.evaluate(x, at, name) for name in names}

    def under(self, x: torch.Tensor, names: Sequence[str], at: Step) -> torch.Tensor:
        # conditions of a function are whatever it takes: each is evaluated for the whole batch, of which a row is kept
        found = {name: self.evaluate(x, at, name) for name in dict.fromkeys(names)}
        return torch.stack([found[name][row] for row, name in enumerate(names)])

    def decode(self, x0: torch.Tensor, step: Step, part: Part | None = None) -> torch.Tensor:
        made = self.sights.decode(x0)
        return made if part is None else made[:, :, list(part.frames)]

    def score(self, name: str) -> Score:
        return self.sights.scores[name]


def itself(x0: torch.Tensor) -> torch.Tensor:
    """x0 as it is, for scores of x0 itself."""
    return x0
