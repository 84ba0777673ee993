"""LinearAG: unconditional predictions as linear combinations of the latest ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ...core import COND, UNCOND, Branches, RunStart, Step
from ...errors import BadValue
from ..common.history import moves_on
from ..common.saver import Saver

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""(c, u) of one step, each [batch, ...]."""


@dataclass(frozen=True)
class LinearAG(Saver):
    """Linear adaptive guidance: on some steps u is a linear combination of what was evaluated before.

    It spares the unconditional evaluation there: u_t = k_0 c_t + sum_j (k_(2j-1) c_(t-j) + k_(2j) u_(t-j)), j = 1 ..
    pairs, in x0. A u that was replaced itself counts as it was given. `emag.methods.null.linear_ag_fit.fit` finds
    coefficients for a model. Regressors, steps and coefficients of the paper are unconfirmed: all defaults are
    untested ones. Raises `BadValue` for a run that is not of `count` steps.

    Args:
        coefficients: k_0, k_1, ..., either 2 pairs + 1 numbers for all steps, or so many for each of `steps` in turn.
            The default (1, -1, 1) keeps the difference u - c of the step before.
        pairs: how many of the latest pairs (c, u) are used, at least 1.
        steps: indices of the replaced steps, all after the first `pairs`. Where none are given: those before the
            share `until` of the run that are no multiple of `every`.
        count: number of steps of the run that `steps` and `coefficients` are for; None is any.
        until: share of the run, in [0, 1], where `steps` is empty.
        every: of so many steps one is evaluated, at least 1, where `steps` is empty; 1 is off.

    >>> import emag
    >>> emag.LinearAG().coefficients, emag.LinearAG(every=1).neutral
    ((1.0, -1.0, 1.0), True)
    """

    coefficients: tuple[float, ...] = (1.0, -1.0, 1.0)
    pairs: int = 1
    steps: tuple[int, ...] = ()
    count: int | None = None
    until: float = 0.5
    every: int = 2

    name = "linear-ag"
    paper = "arXiv 2312.12487"
    equation = "u <- k_0 c + sum_j (k_(2j-1) c_j + k_(2j) u_j), j steps before"
    cost = "spares the unconditional evaluation on the replaced steps"
    space = "x0"

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.every < 1 or not 0 <= self.until <= 1:
            raise BadValue("linear-ag needs pairs >= 1, every >= 1 and until in [0, 1], "
                           f"got {self.pairs}, {self.every} and {self.until}")
        if not all(map(math.isfinite, self.coefficients)) or len(self.coefficients) not in self._lengths:
            raise BadValue(f"linear-ag needs {' or '.join(map(str, self._lengths))} finite coefficients (2 pairs + 1, or as "
                           f"many for each of the steps), got {self.coefficients}")
        if len(set(self.steps)) != len(self.steps) or not all(type(at) is int and at >= self.pairs for at in self.steps):
            raise BadValue(f"linear-ag steps must be whole numbers that differ and come after the first {self.pairs}, got "
                           f"{self.steps}")

    @property
    def _lengths(self) -> tuple[int, ...]:
        one = 2 * self.pairs + 1
        return tuple(dict.fromkeys((one, one * max(1, len(self.steps)))))

    @property
    def neutral(self) -> bool:
        return not self.steps and (self.every == 1 or self.until == 0)

    @property
    def needs(self) -> int:
        return self.pairs

    def fits_run(self, start: RunStart) -> None:
        self._check_count(start.first)

    def _check_count(self, step: Step) -> None:
        if self.count not in (None, step.count):
            raise BadValue(f"these linear-ag coefficients are for {self.count} steps and the run has {step.count}")

    def due(self, step: Step) -> bool:
        self._check_count(step)
        if self.steps:
            return step.index in self.steps
        return step.index % self.every != 0 and step.index < self.until * step.count

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        new = moves_on(step, state)
        if new:
            state["before"] = state.get("past", [])
        before: list[Pair] = state["before"]
        cond, given = branches[COND], None
        if self.due(step) and len(before) == self.pairs:
            given = self._estimate(cond, before, step)
        # what was estimated is past too, for the next estimates
        null = branches.get(UNCOND) if given is None else given
        if new and null is not None:
            state["past"] = [*before, (cond, null)][-self.pairs:]
        return given

    def _estimate(self, cond: torch.Tensor, past: Sequence[Pair], step: Step) -> torch.Tensor:
        one = 2 * self.pairs + 1
        first = one * self.steps.index(step.index) if len(self.coefficients) > one else 0
        used = self.coefficients[first:first + one]
        wide = [t if t.dtype == torch.float64 else t.float() for t in regressors(cond, past)]
        return torch.stack([k * t for k, t in zip(used, wide)]).sum(0).to(cond.dtype)



def regressors(cond: torch.Tensor, past: Sequence[Pair]) -> list[torch.Tensor]:
    """What u is made of, each [batch, ...]: c, then the pairs before it, latest first."""
    return [cond, *(value for pair in reversed(past) for value in pair)]
