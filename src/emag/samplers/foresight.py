"""Foresight guidance: long looks ahead and back at a few steps."""

from dataclasses import dataclass
from typing import Any

import torch

from ..core import UNCOND
from ..errors import BadValue
from .base import Corrector, GuidedModel, clean_prediction, guided_prediction
from .reflection import reflect


@dataclass(frozen=True)
class FSG(Corrector):
    """Foresight guidance: at a few early steps go several levels down with CFG, and back up without guidance.

    At each step of `at`, `repeats` times: one long deterministic step over `interval` levels with CFG at `scale`, then
    one back with the unconditional prediction at where it came to (both are told the step's level, as in the authors'
    code). So x comes to where prompt and no prompt agree over a long way. All steps are then those of CFG++, as
    published, where the guidance has CFG with a scale of `CFGpp(1.0)`.

    Args:
        at: steps, by number from 0, each once; the authors' for SDXL in 40 steps (50 evaluations in all).
        interval: how many levels each goes down, one for each of `at`, at least 1.
        repeats: K, how often each is made, one for each of `at`, at least 0.
        scale: gamma, CFG's scale on the way down, at least 0; at 0 the way back is the same one, up to second order.

    >>> import emag
    >>> emag.FSG(at=(0, 4), interval=(4, 4), repeats=(2, 1)).scale
    5.5
    """

    at: tuple[int, ...] = (0, 5, 15)
    interval: tuple[int, ...] = (5, 5, 5)
    repeats: tuple[int, ...] = (2, 2, 1)
    scale: float = 5.5

    name = "fsg"
    paper = "arXiv 2510.21512"
    equation = "x <- up(down(x; u + g (c - u)); u), over several levels"
    cost = "3 evaluations per repeat"

    def __post_init__(self) -> None:
        for field in ("at", "interval", "repeats"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if not len(self.at) == len(self.interval) == len(self.repeats) or len(set(self.at)) < len(self.at):
            raise BadValue("fsg needs an interval and a number of repeats for each step of at, each once, got "
                           f"{self.at}, {self.interval}, {self.repeats}")
        if min(self.at, default=0) < 0 or min(self.interval, default=1) < 1 or min(self.repeats, default=0) < 0:
            raise BadValue(f"fsg at and repeats are at least 0, intervals at least 1, got {self.at}, {self.interval}, "
                           f"{self.repeats}")
        if not 0 <= self.scale < float("inf"):
            raise BadValue(f"fsg scale must be a CFG scale of at least 0, got {self.scale}")

    def check(self, model: GuidedModel) -> None:
        last = len(model.path)
        # back up from sigma 0 there is no noise to go by
        last -= model.path.sigmas[-1] == 0
        if any(i + far > last for i, far in zip(self.at, self.interval)):
            raise BadValue(f"fsg looks ahead from {self.at} by {self.interval} levels, and this run has {len(model.path)} "
                           "steps: choose earlier steps, shorter intervals or more steps")

    def before(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        if i not in self.at:
            return x
        which = self.at.index(i)

        def down(y: torch.Tensor) -> torch.Tensor:
            return guided_prediction(model.branches(y, i), self.scale, self.name)

        def up(y: torch.Tensor) -> torch.Tensor:
            return clean_prediction(model, y, i, UNCOND, self.name)

        return reflect(x, down, up, model.path, i, model.space, self.repeats[which], self.interval[which])
