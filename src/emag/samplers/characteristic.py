"""Characteristic guidance: both predictions made where the paths of their own distributions are."""

from dataclasses import dataclass
from typing import Any

import torch

from ..core import COND, UNCOND
from ..errors import BadValue
from ..maths.predictions import convert
from ..maths.vectors import divided, dot, norm
from .base import GuidedModel, Solver, clean_prediction, guided_prediction
from .solvers import advance, to_epsilon


@dataclass(frozen=True)
class Characteristic(Solver):
    """Characteristic guidance: CFG whose two predictions are made at two shifted x, found by iteration.

    Solves d = sigma (e_u(x + w d) - e_c(x + (w - 1) d)) for a shift d, e the epsilon of a branch, and steps along
    w e_c(x + (w - 1) d) - (w - 1) e_u(x + w d). d = 0 is CFG. Solved by iteration from d = 0 with Anderson mixing of
    the last two iterates; a sample that does not come within `tolerance` takes CFG. The authors' regularised
    projection of d is left out. It guides by its own scale: a combining rule beside it is refused. The device is asked
    once an iteration whether all samples are done.

    Args:
        scale: w, at least 1; 1 is off.
        iterations: at most so many, at least 1; 50 in the authors' code.
        tolerance: largest change of d, as a share of the size of x, at which a sample is done, above 0.

    >>> import emag
    >>> emag.Characteristic(7.5).guides
    True
    """

    scale: float = 7.5
    iterations: int = 50
    tolerance: float = 1e-4

    name = "characteristic"
    paper = "arXiv 2312.07586"
    equation = "w e_c(x + (w - 1) d) - (w - 1) e_u(x + w d), d = sigma (e_u(x + w d) - e_c(x + (w - 1) d))"
    cost = "2 evaluations per iteration, up to 50 iterations a step"
    guides = True

    def __post_init__(self) -> None:
        if not 1 <= self.scale < float("inf"):
            raise BadValue(f"characteristic scale must be at least 1 (1 is off), got {self.scale}")
        if type(self.iterations) is not int or self.iterations < 1 or not self.tolerance > 0:
            raise BadValue("characteristic needs at least 1 iteration and a tolerance above 0, got "
                           f"{self.iterations!r} and {self.tolerance}")

    def step(self, x: torch.Tensor, pred: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        if self.scale == 1:
            return advance(x, pred, model.path, i, i + 1, model.space)
        if model.path.alphas[i] == 0:  # in pure noise epsilon is x itself: every shift would do, and 0 is CFG
            guided = guided_prediction(model.branches(x, i), self.scale, self.name)
        else:
            guided = convert(self._epsilon(x, i, model), x, *model.path.at(i), "epsilon", model.space)
        return advance(x, guided, model.path, i, i + 1, model.space)

    def _epsilon(self, x: torch.Tensor, i: int, model: GuidedModel) -> torch.Tensor:
        """The guided epsilon at x; CFG's where no shift was found in time."""
        shift, past, near = torch.zeros_like(x), None, self.tolerance * norm(x)
        done = torch.zeros_like(near, dtype=torch.bool)
        cfg = found = x  # set in the first iteration, at shift 0
        for turn in range(self.iterations):
            guided, gap = self._guided(x, shift, i, model)
            step = model.path.sigmas[i] * gap - shift
            cfg = guided if turn == 0 else cfg
            found, done = torch.where(done, found, guided), done | (norm(step) <= near)
            if bool(done.all()):
                break
            shift, past = self._mixed(shift, step, past), (shift, step)
        return torch.where(done, found, cfg)

    def _guided(self, x: torch.Tensor, shift: torch.Tensor, i: int, model: GuidedModel) -> tuple[torch.Tensor, torch.Tensor]:
        """w e_c - (w - 1) e_u, and e_u - e_c, each made at its own x."""
        cond, null = (self._at(x + share * shift, i, model, name)
                      for share, name in ((self.scale - 1, COND), (self.scale, UNCOND)))
        return self.scale * cond - (self.scale - 1) * null, null - cond

    def _at(self, x: torch.Tensor, i: int, model: GuidedModel, name: str) -> torch.Tensor:
        return to_epsilon(clean_prediction(model, x, i, name, self.name), x, *model.path.at(i), model.space)

    @staticmethod
    def _mixed(shift: torch.Tensor, step: torch.Tensor, past: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
        """The next shift: of this iterate and the one before the mixture whose step is shortest, and that step."""
        if past is None:
            return shift + step
        before, step_before = past
        turn = step - step_before
        share = divided(dot(step, turn), dot(turn, turn))
        return shift + step - share * (shift - before + turn)
