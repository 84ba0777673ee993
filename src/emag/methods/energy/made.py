"""A step as energy guidance wants it made, and the estimate of the clean sample that makes a sampler do so."""

import logging
import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from ...core import Step
from ...maths.energies import first_order_step, posterior_spread, reach, towards

log = logging.getLogger("emag")
LARGE = 10.0
"""Root mean square of x_t, over that of data of variance 1 and its noise, from which a run has left what networks know."""
Where = Literal["x0", "x_t", "next", "velocity"]
"""What is moved: the estimate of the clean sample, the sample itself, that of the next level, or the velocity."""
EnergyOf = Literal["guided", "cond", "uncond", "noisy"]
"""What is scored: an estimate of the clean sample (`EstimateOf`), or the sample itself, noise and all."""


@dataclass(frozen=True)
class Made:
    """A step as it is to be made: from x along x0 to the next level, and there by `shift` further. All [batch, ...]."""

    x: torch.Tensor
    x0: torch.Tensor
    shift: torch.Tensor | None = None

    def reached(self, step: Step) -> torch.Tensor:
        """The sample of the next level."""
        target = first_order_step(self.x, self.x0, (step.alpha, step.sigma), step.next)
        return target if self.shift is None else target + self.shift

    def told(self, step: Step) -> torch.Tensor:
        """The x0 along which a first-order step from the step's own x_t reaches the same sample."""
        if self.x is not step.x:
            return towards(self.reached(step), step.x, (step.alpha, step.sigma), step.next)
        return self.x0 if self.shift is None else self.x0 + self.shift / reach((step.alpha, step.sigma), step.next)


def stochastic(made: Made, eta: float, step: Step, turn: int) -> Made:
    """The same step with noise, DDPM's for eta 1; none in the last step, and none for eta 0. turn: which making it is."""
    here, after = (step.alpha, step.sigma), step.next
    spread = 0.0 if step.index + 1 == step.count else eta * posterior_spread(here, after)
    if spread == 0:
        return made
    noise = step.streams.normal(f"energy/step/{turn}", step.x).to(made.x0)
    epsilon = (made.x - step.alpha * made.x0) / step.sigma
    # of sigma' epsilon a part is drawn anew, so that the level keeps its noise
    kept = math.sqrt(max(after[1] ** 2 - spread**2, 0.0))
    return replace(made, shift=(kept - after[1]) * epsilon + spread * noise)


def placed(where: Where, made: Made, pull: torch.Tensor | None, climbed: torch.Tensor | None, step: Step,
           lam: float | None = None) -> Made:
    """The step with its moves put where they belong; None is no move.

    pull: strength times the gradient through the network, in x_t. climbed: a move of x0. Both [batch, ...]. lam: what the
    pull of a velocity is multiplied by; None is sigma / alpha.
    """
    alpha, sigma = step.alpha, step.sigma
    if where == "x0":
        # the score of p(x_t) moves by `pull`, and by Tweedie x0 = (x + sigma^2 score) / alpha
        x0 = made.x0 if climbed is None else made.x0 + climbed
        return replace(made, x0=x0 if pull is None else x0 + sigma**2 / alpha * pull)
    if where == "velocity":
        # towards the data by lambda pull + climbed; and x0 = (x - sigma v) / (alpha + sigma)
        parts = [] if pull is None else [(sigma / alpha if lam is None else lam) * pull]
        moved = sum(parts if climbed is None else [*parts, climbed])
        return replace(made, x0=made.x0 + sigma / (alpha + sigma) * moved)
    # under the noise that it had, x' moves alpha' / alpha times as far as x_t; and alpha' times as far as x0
    along = step.next[0] / alpha if where == "x_t" and pull is not None else 1.0
    moves = [factor * move for factor, move in ((step.next[0], climbed), (along, pull)) if move is not None]
    moves += [] if made.shift is None else [made.shift]
    return replace(made, shift=sum(moves[1:], moves[0])) if moves else made


def warn_of_size(step: Step) -> None:
    """Say that x_t has been driven far from where its network has seen any."""
    size = step.x.flatten(1).square().mean(1).sqrt().max().item() / (step.alpha**2 + step.sigma**2) ** 0.5
    if size > LARGE:
        log.warning("emag: energy has driven x_t to %.0f times its usual size: weaken the strength, or say normalise=rms "
                    "and begin with strength=0.02", size)
