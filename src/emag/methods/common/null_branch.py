"""What rules share whose unconditional prediction is that of a branch."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ...core import Branches, Perturbation, Rule, Step


@dataclass(frozen=True)
class NullBranch(Rule):
    """Base of rules u <- e, e the prediction of a branch; the unconditional rows are then not evaluated.

    A subclass says which `perturbation` it is. Whatever combines (the host's CFG, CFG, APG) sees e. Where the branch
    needs no unconditional rows, a combining rule also works on networks that have none (guidance-distilled ones). Name
    it before the null rules that rewrite u.
    """

    equation: ClassVar[str] = "u <- e"
    kind = "null"
    cost: ClassVar[str] = "none: its evaluation is in the place of the unconditional one"

    @property
    def perturbation(self) -> Perturbation:
        """The branch that gives u."""
        raise NotImplementedError

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (self.perturbation,)

    def spares_null(self, step: Step, state: dict[str, Any]) -> bool:
        return True

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        return branches.get(self.branches(step)[0])
