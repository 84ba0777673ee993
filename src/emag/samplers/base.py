"""What a sampler is made of: a model that predicts, a solver that steps, correctors around the step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch

from ..core import COND, UNCOND, FiniteFields
from ..errors import Unsupported
from ..maths.predictions import Space
from .path import Path


class GuidedModel(Protocol):
    """Anything that predicts: x is [batch, ...], a level i is an index into `path`, a prediction is in `space`, shaped as x.

    `latest` holds the branches that the latest `__call__` evaluated.
    """

    @property
    def path(self) -> Path: ...
    @property
    def space(self) -> Space: ...
    @property
    def latest(self) -> Mapping[Any, torch.Tensor]: ...

    def __call__(self, x: torch.Tensor, i: int) -> torch.Tensor:
        """The guided prediction at level i. Advances the state of the rules: call once per step."""

    def branches(self, x: torch.Tensor, i: int) -> Mapping[Any, torch.Tensor]:
        """Clean predictions at level i by branch: "cond" and, where there is one, "uncond". Changes no state."""

    def branches_at(self, x: torch.Tensor, alpha: float, sigma: float) -> Mapping[Any, torch.Tensor]:
        """`branches` at a level that need not be on the path."""

    def noise(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Standard normal noise shaped as `like` [batch, ...]; row i's depends on sample i and `name` alone."""


@runtime_checkable
class Selective(Protocol):
    """What a `GuidedModel` may offer beside: one clean prediction, without an evaluation of the others."""

    def branch(self, x: torch.Tensor, i: int, name: str) -> torch.Tensor | None:
        """The clean prediction of one branch at level i; None where there is none. Changes no state."""


@dataclass(frozen=True)
class Solver(FiniteFields):
    """Base of all solvers: frozen values that go from one level to the next."""

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    equation: ClassVar[str] = ""
    kind: ClassVar[Literal["solver"]] = "solver"
    cost: ClassVar[str] = "none"  # evaluations per step beyond the model's own
    stochastic: ClassVar[bool] = False  # True where the step adds noise
    guides: ClassVar[bool] = False  # True where the step guides by a scale of its own, and no rule may combine beside it
    first_order: ClassVar[bool] = False  # True where the step is alpha' x0 + sigma' epsilon of one prediction

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions whose clean predictions it reads in `Model.latest`."""
        return ()

    def check(self, model: GuidedModel) -> None:
        """Raise before the run where this solver cannot drive `model`."""

    def step(self, x: torch.Tensor, pred: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        """x at level i + 1, from x and its prediction at level i. `state` is the solver's own, and dies with the run."""
        raise NotImplementedError


@dataclass(frozen=True)
class Corrector(FiniteFields):
    """Base of all correctors: frozen values that move x before or after the solver's step.

    What a corrector evaluates itself are clean branches, under the conditions as they were given: rules neither act there
    nor learn from it. They act on the prediction of the solver's step, once a level. So EMAG's averages, momenta and caches
    see each level once, at the x that the step starts from, and a corrector moves x by the network's own densities.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    equation: ClassVar[str] = ""
    kind: ClassVar[Literal["corrector"]] = "corrector"
    cost: ClassVar[str] = "none"  # evaluations per step
    joint: ClassVar[bool] = False  # True where samples of one condition are drawn together, and depend on each other

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions whose clean predictions it reads in `Model.latest`."""
        return ()

    def drive(self, solver: Solver) -> Solver:
        """The solver of a run with this corrector, given the one named. Raises `Unsupported` where its maths exclude it."""
        return solver

    def check(self, model: GuidedModel) -> None:
        """Raise before the run where this corrector cannot work on `model`."""

    def before(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        """New x before the step from level i. `state` is the corrector's own, and dies with the run."""
        return x

    def after(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        """New x after the step from level i; x is at level i + 1."""
        return x


def guided_prediction(branches: Mapping[Any, torch.Tensor], scale: float, who: str) -> torch.Tensor:
    """u + scale (c - u), [batch, ...]: exactly c at scale 1, u at 0. Raises `Unsupported` where a needed u is not there."""
    if scale == 1:
        return branches[COND]
    if UNCOND not in branches:
        raise Unsupported(f"{who} at scale {scale:g} needs the unconditional prediction, and this model gives none. "
                          "Use scale 1, or a model with a null condition.")
    return torch.lerp(branches[UNCOND], branches[COND], scale)


def clean_prediction(model: GuidedModel, x: torch.Tensor, i: int, name: str, who: str) -> torch.Tensor:
    """The clean prediction of the branch `name` at level i, [batch, ...]. Raises `Unsupported` where the model has none."""
    found = model.branch(x, i, name) if isinstance(model, Selective) else model.branches(x, i).get(name)
    if found is None:
        raise Unsupported(f"{who} needs the {name!r} prediction, and this model gives none. Use a model with a null "
                          "condition.")
    return found
