"""Our own sampling loop, small enough to give correctors their moments."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ..errors import BadValue
from .base import Corrector, GuidedModel, Solver
from .conditioned import want
from .first_order import check_solver
from .solvers import Euler

Progress = Callable[[int, int], None]
PartStates = list[dict[str, Any]]


def sample(model: GuidedModel, x: torch.Tensor, *correctors: Corrector, solver: Solver | None = None,
           on_step: Progress | None = None, states: PartStates | None = None) -> torch.Tensor:
    """x at the last level of the model's path, from x [batch, ...] at the first. solver: None is `Euler()`.

    on_step: called with (steps done, steps in all). states: a list that receives the states of the run, one dict per
    corrector and then the solver's. Raises `BadValue` or `Unsupported` before the run where the parts do not fit.
    """
    return deque(sampled_path(model, x, *correctors, solver=solver, on_step=on_step, states=states), maxlen=1).pop()


def sampled_path(model: GuidedModel, x: torch.Tensor, *correctors: Corrector, solver: Solver | None = None,
               on_step: Progress | None = None, states: PartStates | None = None) -> Iterator[torch.Tensor]:
    """x [batch, ...] at levels 1, 2, ..., N of the model's path, one after the other, from x at level 0. As `sample`."""
    solver = solver or Euler()
    for corrector in correctors:
        solver = corrector.drive(solver)
    check_parts(model, correctors, solver)
    want(model, (*correctors, solver))
    made: PartStates = [{} for _ in (*correctors, solver)]
    if states is not None:
        states.extend(made)
    return _run(model, x, correctors, solver, on_step, made)


def _run(model: GuidedModel, x: torch.Tensor, correctors: Sequence[Corrector], solver: Solver, on_step: Progress | None,
         states: PartStates) -> Iterator[torch.Tensor]:
    for i in range(len(model.path)):
        for corrector, state in zip(correctors, states):
            x = corrector.before(x, i, model, state)
        x = solver.step(x, model(x, i), i, model, states[-1])
        for corrector, state in zip(correctors, states):
            x = corrector.after(x, i, model, state)
        if on_step is not None:
            on_step(i + 1, len(model.path))
        yield x


def check_parts(model: GuidedModel, correctors: Sequence[Corrector], solver: Solver) -> None:
    """Raise `BadValue` or `Unsupported` where the parts of a run do not fit."""
    if not model.path.fits(model.space):
        raise BadValue(f"{model.space} predictions do not fit this path: flow needs alpha + sigma = 1 at every level, "
                       "v alpha^2 + sigma^2 = 1")
    for corrector in correctors:
        corrector.check(model)
        if corrector.joint and corrector is not correctors[-1]:
            raise BadValue(f"{corrector.name} weighs the step itself: name {correctors[-1].name} before it")
    solver.check(model)
    twice = next((rule.name for rule in getattr(model, "rules", ()) if rule.kind == "combining"), None)
    if solver.guides and twice:
        raise BadValue(f"{solver.name} guides by its own scale, and {twice} would guide once more: keep one of the two")
    check_solver(getattr(model, "rules", ()), solver)
