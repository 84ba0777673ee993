"""Ctrl-Z: where a reward stops rising, go back up by fresh noise, come down anew, and keep what is better."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadValue
from ..maths.energies import noised_back
from ..maths.predictions import to_x0
from ..maths.vectors import per_sample
from .base import Corrector, GuidedModel, guided_prediction
from .path import Path
from .solvers import advance

Reward = Callable[[torch.Tensor], torch.Tensor]
"""reward(x0) -> [batch]: how good images x0 [batch, ...] are, as the network takes them; higher is better, each alone."""


@dataclass(frozen=True)
class CtrlZ(Corrector):
    """Ctrl-Z sampling: a step that brings no more reward is taken back by noise, and taken anew from further up.

    After each step the image x0 that the network sees in x is scored. A sample whose score is not `delta` above that
    `window` steps before is brought up one level by fresh noise, taken down again by Euler steps under CFG at `scale`,
    and replaced where it scores higher; if it is still stuck, two levels up, and so on to `depth`. Each sample decides
    for itself. Asks the device once a level. Nothing is scored after the last step.

    Only the outline of the method is known to us: all numbers are untested defaults, the paper's are unconfirmed. It
    reports 8 times the evaluations. A function is no plain data: it cannot be named in a recipe or a command.

    Args:
        reward: a function x0 [batch, ...] -> [batch], higher is better. Needed.
        scale: CFG scale of the clean branches that are scored and taken down by, at least 0; that of the guidance.
        delta: least rise of the score that counts as one, finite; far below 0 nothing is ever stuck.
        window: over how many steps the rise is counted, at least 1.
        depth: most levels to go back up, at least 0; 0 is off.
        tries: how often each depth is tried, at least 1.

    >>> import emag
    >>> emag.CtrlZ(lambda x0: -x0.square().flatten(1).mean(1), depth=2).tries
    1
    """

    reward: Reward | None = None
    scale: float = 5.0
    delta: float = 0.0
    window: int = 1
    depth: int = 2
    tries: int = 1

    name = "ctrl-z"
    paper = "arXiv 2506.20294"
    equation = "x <- the better of x and down(up(x, n)), where reward(x0) does not rise"
    cost = "2 evaluations, and 2 (d + 1) for each try from d levels up"

    def __post_init__(self) -> None:
        if self.reward is not None and not callable(self.reward):
            raise BadValue(f"ctrl-z reward must be a function x0 -> [batch], got {self.reward!r}")
        if not 0 <= self.scale < math.inf or not math.isfinite(self.delta):
            raise BadValue(f"ctrl-z scale is at least 0 and delta finite, got {self.scale} and {self.delta}")
        for field, least in (("window", 1), ("depth", 0), ("tries", 1)):
            value = getattr(self, field)
            if not isinstance(value, int) or value < least:
                raise BadValue(f"ctrl-z {field} must be a whole number of at least {least}, got {value!r}")

    def check(self, model: GuidedModel) -> None:
        if self.reward is None:
            raise BadValue("ctrl-z needs a reward, a function of images from Python: CtrlZ(lambda x0: ...)")

    def after(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        if not self.depth or i + 1 == len(model.path):
            return x
        scores = state.setdefault("scores", [])  # of what was kept, a step each, [batch]
        best, target = self._score(x, i + 1, model), None
        if len(scores) >= self.window:
            target = scores[-self.window] + self.delta
            x, best = self._search(x, best, target, i + 1, model)
        scores.append(best)
        return x

    def _search(self, x: torch.Tensor, best: torch.Tensor, target: torch.Tensor, level: int,
                model: GuidedModel) -> tuple[torch.Tensor, torch.Tensor]:
        """x at `level`, and its scores, replaced where a sample was stuck below `target` and a try scored higher."""
        for count in range(min(self.depth, level) * self.tries):
            stuck = best < target
            if not stuck.any():
                break
            made = self._again(x, level, 1 + count // self.tries, f"{self.name}/{level}/{count}", model)
            score = self._score(made, level, model)
            better = stuck & (score > best)
            x, best = torch.where(per_sample(better, x), made, x), torch.where(better, score, best)
        return x, best

    def _again(self, x: torch.Tensor, level: int, up: int, noise: str, model: GuidedModel) -> torch.Tensor:
        """x at `level`, taken `up` levels back up by fresh noise and down again."""
        x = raised(x, model.path, level, level - up, model.noise(noise, x).to(x))
        for i in range(level - up, level):
            x = advance(x, self._predicted(x, i, model), model.path, i, i + 1, model.space)
        return x

    def _predicted(self, x: torch.Tensor, i: int, model: GuidedModel) -> torch.Tensor:
        return guided_prediction(model.branches(x, i), self.scale, self.name)

    def _score(self, x: torch.Tensor, i: int, model: GuidedModel) -> torch.Tensor:
        """The reward of the images seen in x at level i, [batch]. Raises `BadValue` for a reward of another shape."""
        assert self.reward is not None
        found = self.reward(to_x0(self._predicted(x, i, model), x, *model.path.at(i), model.space))
        if not isinstance(found, torch.Tensor) or found.shape != x.shape[:1]:
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else found
            raise BadValue(f"ctrl-z reward must give a number for each of {len(x)} images, got {shape}")
        return found


def raised(x: torch.Tensor, path: Path, i: int, j: int, noise: torch.Tensor) -> torch.Tensor:
    """x at level j < i, from x [batch, ...] at level i and normal noise: the forward process from one to the other."""
    return noised_back(x, noise, path.at(j), path.at(i))
