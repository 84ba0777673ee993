"""Reflection: down one level with a strong prediction and back up with a weak one, before the step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadValue, Unsupported
from ..maths.predictions import Space
from .base import Corrector, GuidedModel, guided_prediction
from .path import Path
from .solvers import advance

_Denoiser = Callable[[torch.Tensor], torch.Tensor]


def reflect(x: torch.Tensor, strong: _Denoiser, weak: _Denoiser, path: Path, i: int, space: Space,
            repeats: int = 1, interval: int = 1) -> torch.Tensor:
    """x [batch, ...] at level i, taken to level i + `interval` with `strong` and back with `weak`, `repeats` times.

    Both predict at level i. In flow space: x + (sigma' - sigma) (u_strong(x) - u_weak(x')). Where neither depends on x and
    they agree, x comes back.
    """
    for _ in range(repeats):
        down = advance(x, strong(x), path, i, i + interval, space)
        # `weak` predicts at level i and is read there: what it says of the noise takes x back
        x = advance(down, weak(down), path, i + interval, i, space)
    return x


@dataclass(frozen=True)
class Reflection(Corrector):
    """Z-Sampling: before each step go down with CFG at `high` and back up with CFG at `low`.

    Then comes the solver's step. Up and down are deterministic first-order steps, whatever the solver; both
    predictions are made at the step's level. Raises `Unsupported` where a scale other than 1 meets a model without an
    unconditional prediction.

    Args:
        high: CFG scale of the model's clean branches on the way down, at least 0; the default is the authors' for
            SDXL.
        low: the same on the way up, at least 0; the default is the authors' for SDXL.
        until: reflect in the first so many steps, at least 0; None is all but the last (the authors'), 0 is off.
        repeats: reflections per step, at least 1.

    >>> import emag
    >>> emag.Reflection(high=5.5, low=0.0, until=10).name
    'z-sampling'
    """

    high: float = 5.5
    low: float = 0.0
    until: int | None = None
    repeats: int = 1

    name = "z-sampling"
    paper = "arXiv 2412.10891"
    equation = "x + (sigma' - sigma) (u_high(x) - u_low(x'))"
    cost = "4 evaluations per reflection"

    def __post_init__(self) -> None:
        _check(self)

    def before(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        return _reflected(self, x, i, model, model)


@dataclass(frozen=True)
class W2SD(Corrector):
    """Weak-to-strong reflection: before each step go down with the model and back up with a weaker one.

    As `Reflection`, but going up with `weak`. Not plain data: it cannot be stored in a recipe.

    Args:
        weak: another model on the same path and in the same space (other weights, another network, another prompt).
        high: CFG scale of the model, at least 0; the default is the authors'.
        low: CFG scale of the weak model, at least 0; the default is the authors'.
        until: as in `Reflection`.
        repeats: as in `Reflection`.

    >>> import emag
    >>> weak = emag.guided(lambda x, sigma, condition: x, path=(1.0, 0.5, 0.0))  # stands for another network
    >>> emag.W2SD(weak, until=1).low
    1.0
    """

    weak: GuidedModel
    high: float = 5.5
    low: float = 1.0
    until: int | None = None
    repeats: int = 1

    name = "w2sd"
    paper = "arXiv 2502.00473"
    equation = "x + (sigma' - sigma) (u_strong(x) - u_weak(x'))"
    cost = "4 evaluations per reflection, 2 of them of the weak model"

    def __post_init__(self) -> None:
        _check(self)

    def check(self, model: GuidedModel) -> None:
        if (self.weak.path, self.weak.space) != (model.path, model.space):
            raise Unsupported("w2sd needs a weak model on the same path and in the same prediction space as the model")

    def before(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        return _reflected(self, x, i, model, self.weak)


def _reflected(how: Reflection | W2SD, x: torch.Tensor, i: int, strong: GuidedModel, weak: GuidedModel) -> torch.Tensor:
    if i >= (len(strong.path) - 1 if how.until is None else how.until):
        return x

    def high(y: torch.Tensor) -> torch.Tensor:
        return guided_prediction(strong.branches(y, i), how.high, how.name)

    def low(y: torch.Tensor) -> torch.Tensor:
        return guided_prediction(weak.branches(y, i), how.low, how.name)

    return reflect(x, high, low, strong.path, i, strong.space, how.repeats)


def _check(how: Reflection | W2SD) -> None:
    for field in ("high", "low"):
        if not 0 <= getattr(how, field) < float("inf"):
            raise BadValue(f"{how.name} {field} must be a CFG scale of at least 0, got {getattr(how, field)}")
    if how.until is not None and not how.until >= 0:
        raise BadValue(f"{how.name} until must be at least 0 steps (0 is off) or None, got {how.until}")
    if not how.repeats >= 1:
        raise BadValue(f"{how.name} repeats must be at least 1, got {how.repeats}")
