"""DC-Solver: UniPC whose buffered predictions are moved to where the corrector moved x."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import BadValue
from .base import GuidedModel, guided_prediction
from .path import Path
from .unipc import Past, UniPC


@dataclass(frozen=True)
class DCSolver(UniPC):
    """UniPC with dynamic compensation: buffered predictions are moved to where the corrector moved x.

    The corrector moves x after its prediction was made. Before the step from level i, that prediction is replaced by
    the Lagrange interpolation of the last K + 1 buffered x0 predictions at t' = r_i t_i + (1 - r_i) t_(i-1), for
    good. `search_ratios` finds the ratios for
    a model, `predicted_ratios` has those of Stable Diffusion 2.1.

    Args:
        ratios: r_i, one per step, finite; 1 leaves a prediction as it is, bit for bit; () is 1 everywhere, which is
            UniPC. The first K must be 1.
        degree: K, at least 1; 2 in the authors' code.
        times: t_i of each step, finite and all different, in any unit; None takes the sigmas of the path, which are
            the time of a flow. The authors interpolate in timesteps.

    >>> import emag
    >>> emag.DCSolver(ratios=(1.0, 1.0, 0.9, 1.1)).kept  # predictions that it keeps
    3
    """

    ratios: tuple[float, ...] = ()
    degree: int = 2
    times: tuple[float, ...] | None = None

    name = "dc-solver"
    paper = "arXiv 2409.03755"
    equation = "m_i <- sum_k m_(i-k) prod_l (t' - t_(i-l)) / (t_(i-k) - t_(i-l))"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.degree < 1:
            raise BadValue(f"dc-solver degree must be at least 1, got {self.degree}")
        if not all(map(math.isfinite, self.ratios)) or any(r != 1 for r in self.ratios[:self.degree]):
            raise BadValue(f"dc-solver ratios must be finite, and 1 in the first {self.degree} steps (nothing buffered yet)")
        if self.times is not None and (len(set(self.times)) < len(self.times) or not all(map(math.isfinite, self.times))):
            raise BadValue("dc-solver times must be finite, and different at every step")

    def check(self, model: GuidedModel) -> None:
        for name in ("ratios", "times"):
            given = getattr(self, name)
            if given and len(given) != len(model.path):
                raise BadValue(f"dc-solver needs {name} for each of the {len(model.path)} steps, got {len(given)}")

    @property
    def kept(self) -> int:
        return max(self.order, self.degree + 1)

    def revise(self, past: Past, path: Path) -> Past:
        i = past[-1][0]
        ratio = self.ratios[i] if self.ratios else 1
        if ratio == 1:
            return past
        t, recent = self.times or path.sigmas, past[-self.degree - 1:]
        shares = lagrange([t[k] for k, _ in recent], ratio * t[i] + (1 - ratio) * t[i - 1])
        return [*past[:-1], (i, torch.stack([share * m for share, (_, m) in zip(shares, recent)]).sum(0))]


def lagrange(nodes: Sequence[float], t: float) -> list[float]:
    """Weights of the values at `nodes` in their interpolation polynomial at t; they sum to 1."""
    return [math.prod((t - other) / (node - other) for other in nodes if other != node) for node in nodes]


def search_ratios(model: GuidedModel, x: torch.Tensor, reference: Sequence[torch.Tensor], scale: float = 1.0,
                  solver: DCSolver | None = None, low: float = 0.5, high: float = 1.5, iterations: int = 20) -> DCSolver:
    """`solver` with the ratios that bring it closest to `reference`, found step by step with a golden-section search.

    x: [batch, ...] at level 0; reference: x at levels 1, ..., N, from many small steps (the paper takes 999). Each ratio in
    [low, high] minimises the mean square error of the next x, once corrected, and is kept only where it beats 1. scale: the
    CFG scale the ratios are for. Costs about `iterations` evaluations of `model.branches` per step, on the whole batch.
    The paper minimises with AdamW, from 1, over 10 samples.
    """
    if not low < high or iterations < 1:
        raise BadValue(f"the search needs low < high and at least 1 iteration, got {low}, {high} and {iterations}")
    if len(reference) != len(model.path):
        raise BadValue(f"reference must hold x after each of the {len(model.path)} steps, got {len(reference)}")
    solver, ratios, state = solver or DCSolver(), [], dict[str, Any]()
    for i, goal in enumerate(reference):
        trial = _Trial(solver, model, scale, i, x, guided_prediction(model.branches(x, i), scale, solver.name), state, goal)
        found = [golden_section(trial.error, low, high, iterations)] if i >= solver.degree else []
        ratios.append(min([1.0, *found], key=trial.error))
        x = trial.step(ratios[i], state)
    return replace(solver, ratios=tuple(ratios))


@dataclass(frozen=True)
class _Trial:
    """The step from x at level i, to be made with different ratios. `state` is the solver's before the step."""

    solver: DCSolver
    model: GuidedModel
    scale: float
    i: int
    x: torch.Tensor
    pred: torch.Tensor
    state: dict[str, Any]
    goal: torch.Tensor

    def step(self, ratio: float, state: dict[str, Any]) -> torch.Tensor:
        solver = replace(self.solver, ratios=(*[1.0] * self.i, ratio))
        return solver.step(self.x, self.pred, self.i, self.model, state)

    def error(self, ratio: float) -> float:
        """Mean square distance to the goal of the next x, corrected where there is a further step."""
        state, after = dict(self.state), self.i + 1
        x = self.step(ratio, state)
        if after < len(self.model.path):
            pred = guided_prediction(self.model.branches(x, after), self.scale, self.solver.name)
            x = self.solver.correct(x, pred, after, self.model, state)
        return (x - self.goal).square().mean().item()


def golden_section(error: Callable[[float], float], low: float, high: float, iterations: int) -> float:
    """The point of [low, high] where a function with one minimum is least, within (high - low) 0.618^iterations."""
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = error(left), error(right)
    for _ in range(iterations):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = error(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = error(right)
    return (low + high) / 2
