"""What a run will evaluate, known before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..guidance import Rule
from ..perturbations.base import Perturbation


@dataclass(frozen=True)
class Plan:
    """Evaluations of one run. A block evaluation is one block on one batch row.

    depth: blocks of the network. clean_rows: rows per image of the clean pass. steps: for each evaluation of the
    host, the weak branches it needs.
    """

    depth: int
    clean_rows: int
    steps: tuple[tuple[Perturbation, ...], ...]

    @property
    def clean(self) -> int:
        """Block evaluations per image without any weak pass."""
        return len(self.steps) * self.clean_rows * self.depth

    @property
    def weak(self) -> int:
        """Block evaluations per image of the weak passes."""
        return sum(self.cost(branch) for step in self.steps for branch in step)

    @property
    def total(self) -> int:
        """Block evaluations per image."""
        return self.clean + self.weak

    def cost(self, branch: Perturbation) -> int:
        """Block evaluations per image of one weak pass."""
        return (self.clean_rows if branch.all_rows else 1) * (self.depth - branch.resume)


def weak_branches(rules: Sequence[Rule]) -> tuple[Perturbation, ...]:
    """The weak branches of all rules, each once, in order."""
    return tuple(dict.fromkeys(branch for rule in rules for branch in rule.weak))


def plan(rules: Sequence[Rule], depth: int, sigmas: tuple[float, ...], index: Sequence[int], uncond: bool) -> Plan:
    """Plan a run over the distinct noise levels `sigmas`; evaluation j of the host is at level `index[j]`.

    Raises `BadValue` where a weak branch would never be used.
    """
    branches = weak_branches(rules)
    for branch in branches:
        branch.check(sigmas)
    steps = tuple(tuple(b for b in branches if b.runs(i, sigmas)) for i in index)
    return Plan(depth, 2 if uncond else 1, steps)
