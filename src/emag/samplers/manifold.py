"""Manifold projection before a step: x moved to where the two predictions agree."""

from dataclasses import dataclass
from typing import Any

import torch

from ..core import COND, UNCOND
from ..errors import BadValue, Unsupported
from ..maths.vectors import dot
from .base import Corrector, GuidedModel, clean_prediction


@dataclass(frozen=True)
class CFGMP(Corrector):
    """CFG-MP, for flows: before a noisy step, move x towards where c = u, half a step up and half a step down.

    With h = sigma' - sigma: z' = z - (h/2) u(z), G(z) = z' + (h/2) c(z'), both predictions at the step's level; at
    levels of at least `swap` the halves change places: z' = z + (h/2) c(z), G(z) = z' - (h/2) u(z'). Then comes the
    solver's own guided step. A fixed point of G has c(z') = u(z). Even with c = u it is the identity only for fields that
    do not depend on x. An independent test at equal evaluations found no gain over plain CFG. Half a step is half of h
    (the authors': up to the level between in a grid of twice the steps, which is the same on even grids).

    Args:
        iterations: K, a whole number of at least 0; 0 is off, 3 the authors' for SD3.5, 2 for DiT.
        until: it acts at levels above this sigma, in [0, 1].
        swap: from this sigma on the halves change places; above 1 never.
        anderson: CFG-MP+, each iterate mixed with the one before so that G moves it least.
        ridge: what keeps that mixture finite, above 0.

    >>> import emag
    >>> emag.CFGMP(iterations=2).until
    0.6
    """

    iterations: int = 3
    until: float = 0.6
    swap: float = 0.95
    anderson: bool = False
    ridge: float = 1e-4

    name = "cfg-mp"
    paper = "arXiv 2601.21892"
    equation = "z' = z - (h/2) u(z), z <- z' + (h/2) c(z')"
    cost = "2 evaluations per iteration"

    def __post_init__(self) -> None:
        if type(self.iterations) is not int or self.iterations < 0:
            raise BadValue(f"cfg-mp iterations must be a whole number of at least 0 (0 is off), got {self.iterations!r}")
        if not 0 <= self.until <= 1 or self.swap < 0 or not self.ridge > 0:
            raise BadValue("cfg-mp needs until in [0, 1], swap >= 0 and ridge > 0, got "
                           f"{self.until}, {self.swap}, {self.ridge}")

    def check(self, model: GuidedModel) -> None:
        if model.space != "flow":
            raise Unsupported(f"cfg-mp is for flow predictions, and this model predicts {model.space}")

    def before(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        if model.path.sigmas[i] <= self.until:
            return x
        past: tuple[torch.Tensor, torch.Tensor] | None = None
        for _ in range(self.iterations):
            made = self._moved(x, i, model)
            step = made - x
            x = self._mixed(made, step, *past) if self.anderson and past else made
            past = made, step
        return x

    def _moved(self, z: torch.Tensor, i: int, model: GuidedModel) -> torch.Tensor:
        """G(z)."""
        sigma, after = model.path.sigmas[i], model.path.sigmas[i + 1]
        halves = [(UNCOND, -0.5), (COND, 0.5)]
        for name, share in reversed(halves) if sigma >= self.swap else halves:
            z = z + share * (after - sigma) * clean_prediction(model, z, i, name, self.name)
        return z

    def _mixed(self, made: torch.Tensor, step: torch.Tensor, made_before: torch.Tensor,
               step_before: torch.Tensor) -> torch.Tensor:
        """a G(z) + (1 - a) G(z_before), a such that |a f + (1 - a) f_before|^2 + ridge (a^2 + (1 - a)^2) is least.

        f is the step that G makes, G(z) - z.
        """
        turn = step - step_before
        share = (self.ridge - dot(step_before, turn)) / (dot(turn, turn) + 2 * self.ridge)
        return made_before + share * (made - made_before)
