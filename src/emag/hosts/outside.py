"""A plain denoiser function, whose network is not known."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from ..core import Perturbation, Step
from ..engine.plan import Plan
from ..maths.streams import Streams

Evaluate = Callable[[], torch.Tensor]
Made = TypeVar("Made")


class Outside:
    """A denoiser function of which nothing is known: each branch is a plain call of it."""

    block_evaluations = 0
    plan: Plan | None = None

    def start(self, streams: Streams) -> None:
        """Begin a new run."""

    def step(self, step: Step, evaluate: Callable[[], Made]) -> Made:
        """All evaluations of one step, which `evaluate` makes."""
        return evaluate()

    def clean(self, evaluate: Evaluate, step: Step, null: bool = False) -> torch.Tensor:
        """A clean prediction, by one call of `evaluate`. null: it is the unconditional one."""
        return evaluate()

    def elsewhere(self, evaluate: Evaluate, step: Step, null: bool) -> torch.Tensor:
        """A clean prediction beside those of the step, which are made. null: it is the unconditional one."""
        return evaluate()

    def weak_elsewhere(self, evaluate: Evaluate, step: Step, branch: Perturbation, cond: torch.Tensor) -> torch.Tensor:
        """The prediction, beside those of the step, of a branch that it evaluates; `cond` is the clean one there."""
        return evaluate()

    @contextmanager
    def once_more(self) -> Iterator[None]:
        """Evaluations that backward passes make once more."""
        yield

    def weak(self, evaluate: Evaluate, step: Step, branch: Perturbation, cond: torch.Tensor | None) -> torch.Tensor:
        """The prediction of a further branch; `cond` is the clean one, None where that comes later."""
        return evaluate()

    def check(self) -> None:
        """Raise `NoEffect` where a branch of the run changed nothing so far."""
