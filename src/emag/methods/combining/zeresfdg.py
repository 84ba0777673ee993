"""ZeResFDG: guidance in two bands, rescaled where the push is fine and without its part along u where it is coarse."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...core import RunStart, Step
from ...errors import BadValue
from ...maths.layout import from_planes, planes
from ...maths.pyramid import blur
from ...maths.vectors import divided, dot, per_sample, project
from ..common.history import moves_on
from ..common.scaled import Scaled


@dataclass(frozen=True)
class ZeResFDG(Scaled):
    """ZeResFDG of CADE 2.5: guidance in two bands, by one of two forms that each sample switches between.

    F(x) = low B(x) + high (x - B(x)), B a Gaussian blur of 3 x 3. With D = p - u and a = <p, u> / |u|^2:

        coarse: a u + w F(p - a u), as CFG-Zero* has it
        fine: g = u + w F(D), g (1 - phi + phi std(p) / std(g)), as `Rescale` has it

    A sample begins with the coarse form, takes the fine one once R >= `up`, and goes back once R <= `down`. R is the running
    mean of the share of D's energy that is fine, |D - B(D)|^2 / (|B(D)|^2 + |D - B(D)|^2). On the path's straight space:
    epsilon as published, velocities on flows. Read off the author's node, whose further caps and masks are not here.

    Args:
        scale: w, at least 0, or a schedule. None takes the model's default.
        low: gain of the coarse band, at least 0; the author's is 0.6, and 1 leaves it.
        high: gain of the fine band, at least 0; the author's is 1.3, and 1 leaves it.
        phi: share of the rescaled prediction in the fine form, in [0, 1]; the author's is 0.7.
        up: share of fine energy from which on the fine form is taken, in [0, 1]; the author's is 0.6.
        down: share from which on it is left again, in [0, up]; the author's is 0.45.
        decay: share of the past in R, in [0, 1); the author's is 0.8.
        sigma: deviation of the blur in latent pixels, above 0; the author's is 1.

    >>> import emag
    >>> emag.ZeResFDG(4.5).space
    'path'
    """

    low: float = 0.6
    high: float = 1.3
    phi: float = 0.7
    up: float = 0.6
    down: float = 0.45
    decay: float = 0.8
    sigma: float = 1.0

    name = "zeresfdg"
    paper = "arXiv 2510.12954"
    equation = "a u + w F(p - a u), or u + w F(D) rescaled where D is fine"
    space = "path"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low < 0 or self.high < 0 or self.sigma <= 0:
            raise BadValue("zeresfdg low and high must be at least 0, sigma above 0, got "
                           f"{self.low}, {self.high} and {self.sigma}")
        if not 0 <= self.phi <= 1 or not 0 <= self.down <= self.up <= 1 or not 0 <= self.decay < 1:
            raise BadValue("zeresfdg needs phi in [0, 1], 0 <= down <= up <= 1 and decay in [0, 1), got "
                           f"{self.phi}, {self.down}, {self.up} and {self.decay}")

    def fits_run(self, start: RunStart) -> None:
        planes(start.first.x, start.first)

    def reads_null(self, step: Step) -> bool:
        return super().reads_null(step) or not self.low == self.high == 1 or self.phi > 0

    def joined(self, pred: torch.Tensor, null: torch.Tensor, scale: float | torch.Tensor, step: Step,
               state: dict[str, Any]) -> torch.Tensor:
        wide, null = pred.double(), null.double()
        along, across = project(wide, null)
        coarse = along + scale * self._banded(across, step)
        fine = null + scale * self._banded(wide - null, step)
        fine = fine * (1 - self.phi + self.phi * divided(deviation(wide), deviation(fine), otherwise=1.0))
        return torch.where(self._is_fine(wide - null, step, state), fine, coarse)

    def _blurred(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        beside = math.exp(-1 / (2 * self.sigma**2))
        taps = (beside, 1.0, beside)
        return from_planes(blur(planes(x, step), [tap / sum(taps) for tap in taps]), step, x)

    def _banded(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """F: the two bands of `x`, each with its gain."""
        smooth = self._blurred(x, step)
        return self.low * smooth + self.high * (x - smooth)

    def _is_fine(self, push: torch.Tensor, step: Step, state: dict[str, Any]) -> torch.Tensor:
        """Whether a sample takes the fine form at this step, [batch, 1, ...]."""
        if moves_on(step, state):
            smooth = self._blurred(push, step)
            energy = dot(push - smooth, push - smooth)
            share = divided(energy, energy + dot(smooth, smooth))
            mean = state["mean"] = share if "mean" not in state else self.decay * state["mean"] + (1 - self.decay) * share
            state["fine"] = torch.where(state.get("fine", torch.zeros_like(mean, dtype=torch.bool)),
                                        mean > self.down, mean >= self.up)
        fine: torch.Tensor = state["fine"]
        return fine


def deviation(x: torch.Tensor) -> torch.Tensor:
    """The standard deviation of each sample, shaped to multiply it."""
    return per_sample(x.flatten(1).std(1), x)
