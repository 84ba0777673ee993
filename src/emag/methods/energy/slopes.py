"""Gradients of a score in one step: at an estimate of the clean sample, or through the network at x_t."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import Access, EstimateOf, Score, Step
from ...errors import NoEffect
from ...maths.energies import Normalise, slope, smoothed_score, tamed, unit_sized
from .ahead import last_estimate
from .numbers import scored, sighted
from .views import ImageView, seen


@dataclass(frozen=True)
class Slopes:
    """The gradients of one step, per sample. label: the score in words. state: the rule's own in this run, which keeps
    whether any gradient was other than 0. turn: how often the step was made before; each time has random numbers of its own.
    The other fields are those of `Energy`."""

    step: Step
    access: Access
    score: Score
    label: str
    smooth: float
    draws: int
    augment: int
    normalise: Normalise
    clip: float
    steps: int
    state: dict[str, Any]
    turn: int = 0

    def at(self, x0: torch.Tensor) -> torch.Tensor:
        """The gradient of the score in x0 [batch, ...]."""
        return self._kept(x0, slope(x0, self.value))

    def noisy(self, x: torch.Tensor) -> torch.Tensor:
        """The gradient in x_t [batch, ...] of the score of x_t itself, scaled down to a root mean square of 1."""
        return self._kept(x, slope(x, lambda leaf: self.value(unit_sized(leaf))))

    def through(self, x: torch.Tensor, of: EstimateOf) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient of the score in x [batch, ...], through the network and its `steps` steps; and the x0 that is
        estimated there."""
        estimates: list[torch.Tensor] = []

        def ahead(later: torch.Tensor, by: int) -> torch.Tensor:
            return self.access.estimate(later, of, by)

        def value(leaf: torch.Tensor) -> torch.Tensor:
            x0 = self.access.estimate(leaf, of)
            estimates.append(x0.detach())
            return self.value(last_estimate(self.step, self.steps, leaf, x0, ahead))

        return self._kept(x, slope(x, value)), estimates[0]

    def value(self, x0: torch.Tensor) -> torch.Tensor:
        """The score [batch] of clean samples, smoothed and over the views. Raises `BadValue` where it is no score."""
        noises = [self.step.streams.normal(self._named(draw), x0).to(x0) for draw in range(self.draws if self.smooth else 0)]
        noisy = [x0 + self.smooth * self.step.sigma * noise for noise in noises] or [x0]
        return smoothed_score(torch.stack([self._over_views(*sighted(self.access, self.score, one)) for one in noisy]))

    def _over_views(self, images: torch.Tensor, score: Score) -> torch.Tensor:
        views = [ImageView.drawn(self.step.streams, self._named(f"view/{at}"), len(images)) for at in range(self.augment)]
        scores = [seen(score, view) for view in views] or [score]
        return torch.stack([scored(one, images, self.label, self.step) for one in scores]).mean(0)

    def _named(self, what: int | str) -> str:
        """The name of random numbers."""
        return f"energy/{what}/{self.turn}" if self.turn else f"energy/{what}"

    def _kept(self, at: torch.Tensor, found: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
        if found is None:
            raise NoEffect(f"the score {self.label} does not depend on the image, as far as gradients tell: numpy, .item(), "
                           ".detach(), rounding or torch.no_grad inside it cut them")
        value, gradient = found
        moved = (gradient != 0).any()
        self.state["moved"] = moved | self.state.get("moved", moved)
        return tamed(gradient, value, self.normalise, self.clip, at)
