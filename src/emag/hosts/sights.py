"""What a denoiser function gives rules that look further: scores, how they see x0, and predictions at another x."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from ..core import PLENTY, Branches, Part, Perturbation, Rule, Score, Sparing, Step
from ..errors import BadValue
from .decoding import decode

Decode = Callable[[torch.Tensor], torch.Tensor]
"""x0 [batch, ...] -> images [batch, 3, height, width] in [0, 1], or whatever else scores see; differentiable."""


@dataclass(frozen=True)
class PipelineImages:
    """A `Decode` of a pipeline's latents, with what a rule says of memory."""

    pipe: Any
    sparing: Sparing = PLENTY

    def __call__(self, x0: torch.Tensor) -> torch.Tensor:
        return decode(self.pipe, x0, sparing=self.sparing)


class Evaluating(Protocol):
    """A clean prediction of one step at another x, by name. checkpointed: a backward pass evaluates it again."""

    def __call__(self, x: torch.Tensor, step: Step, name: str, checkpointed: bool) -> torch.Tensor: ...


class WeaklyEvaluating(Protocol):
    """The prediction of a weak branch of one step at another x, where the clean one is `cond`."""

    def __call__(self, x: torch.Tensor, step: Step, branch: Perturbation, cond: torch.Tensor,
                 checkpointed: bool) -> torch.Tensor: ...


@dataclass(frozen=True)
class Sights:
    """What rules that look further are given: scores by name, and how x0 [batch, ...] becomes what those see."""

    scores: Mapping[str, Score]
    decode: Decode


@dataclass(frozen=True)
class Elsewhere:
    """Predictions of one step at another x, by calls of the denoiser: `evaluate` clean ones, `weakly` those of weak
    branches."""

    sights: Sights
    evaluate: Evaluating
    weakly: WeaklyEvaluating

    def branches(self, x: torch.Tensor, names: Sequence[str], at: Step, checkpoint: bool = False) -> Branches:
        return {name: self.evaluate(x, at, name, checkpoint) for name in names}

    def weak(self, x: torch.Tensor, branch: Perturbation, cond: torch.Tensor, at: Step,
             checkpoint: bool = False) -> torch.Tensor:
        return self.weakly(x, at, branch, cond, checkpoint)

    def under(self, x: torch.Tensor, names: Sequence[str], at: Step, checkpoint: bool = False) -> torch.Tensor:
        # conditions of a function are whatever it takes: each is evaluated for the whole batch, of which a row is kept
        found = {name: self.evaluate(x, at, name, checkpoint) for name in dict.fromkeys(names)}
        return torch.stack([found[name][row] for row, name in enumerate(names)])

    def decode(self, x0: torch.Tensor, step: Step, part: Part | None = None, sparing: Sparing = PLENTY) -> torch.Tensor:
        own = self.sights.decode
        made = replace(own, sparing=sparing)(x0) if isinstance(own, PipelineImages) else own(x0)
        return made if part is None else made[:, :, list(part.frames)]

    def score(self, name: str) -> Score:
        return self.sights.scores[name]


def check_sparing(rules: Sequence[Rule], decode: Decode | None) -> None:
    """Raise `BadValue` where a rule names a decoder and a function decodes."""
    named = next((rule.name for rule in rules if Sparing.of(rule).decoder is not None), None)
    if named and not isinstance(decode, PipelineImages):
        raise BadValue(f"{named} decoder is another one than a pipeline's own, and here there is none: give it as "
                       "emag.guided(..., decode=...)")


def itself(x0: torch.Tensor) -> torch.Tensor:
    """x0 as it is, for scores of x0 itself."""
    return x0
