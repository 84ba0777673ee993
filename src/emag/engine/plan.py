"""What a run will evaluate, known before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from ..core import Perturbation, Rule, States, Step, needs_null, reads_null
from ..maths.predictions import convert, difference_scale
from ..methods.common.null_branch import NullBranch
from ..schedules import Schedule
from .trajectory import Trajectory


@dataclass(frozen=True)
class Plan:
    """Evaluations of one run. A block evaluation is one block on one batch row.

    depth: blocks of the network. rows: for each evaluation of the host, rows per image of its clean pass (a rule that
    decides from the predictions, such as adaptive guidance, may spare more). host_rows: those without any rule.
    steps: for each evaluation, the further branches it needs (likewise). reads_null: some step reads the unconditional
    prediction.
    """

    depth: int
    rows: tuple[int, ...]
    host_rows: int
    steps: tuple[tuple[Perturbation, ...], ...]
    reads_null: bool = True

    @property
    def host(self) -> int:
        """Block evaluations per image of the host alone."""
        return len(self.steps) * self.host_rows * self.depth

    @property
    def clean(self) -> int:
        """Block evaluations per image of the clean passes."""
        return sum(self.rows) * self.depth

    @property
    def weak(self) -> int:
        """Block evaluations per image of the further branches."""
        return sum(self.cost(branch) for step in self.steps for branch in step)

    @property
    def total(self) -> int:
        """Block evaluations per image."""
        return self.clean + self.weak

    def cost(self, branch: Perturbation) -> int:
        """Block evaluations per image of one weak pass."""
        return (self.host_rows if branch.all_rows else 1) * (self.depth - branch.entry) - branch.skipped


def weak_branches(rules: Sequence[Rule]) -> tuple[Perturbation, ...]:
    """The further branches of all rules, each once, in order."""
    return tuple(dict.fromkeys(branch for rule in rules for branch in rule.weak))


def departs(rules: Sequence[Rule]) -> bool:
    """True where the network is evaluated otherwise than the host evaluates it: further passes, or rows left out."""
    further = any(not (branch.observes or branch.strong) for branch in weak_branches(rules))
    return further or any(type(rule).spares_null is not Rule.spares_null or _scheduled(rule) for rule in rules)


def _scheduled(value: Any) -> bool:
    """True where a schedule is in it, at whose steps rows may be spared."""
    if isinstance(value, Rule):
        return any(_scheduled(getattr(value, field.name)) for field in fields(value))
    return isinstance(value, Schedule) or (isinstance(value, tuple) and any(map(_scheduled, value)))


def plan(rules: Sequence[Rule], depth: int, trajectory: Trajectory, uncond: bool, paired: bool = False) -> Plan:
    """Plan a run along `trajectory`; paired: no rows are spared. Raises `BadValue` where a branch would never be used."""
    branches = weak_branches(rules)
    for branch in branches:
        branch.check(trajectory.sigmas)
    fresh: list[dict] = [{} for _ in rules]
    places = trajectory.places()
    both = [uncond and (paired or evaluates_null(rules, branches, step, fresh)) for step in places]
    return Plan(depth, tuple(2 if b else 1 for b in both), 2 if uncond else 1,
                tuple(needed(rules, step, fresh) for step in places), any(reads_null(rules, step) for step in places))


def unfed(rules: Sequence[Rule], trajectory: Trajectory) -> str | None:
    """Name of a rule that would read an unconditional prediction which no branch gives, where there are no such rows along
    `trajectory`; None where none does."""
    if any(isinstance(rule, NullBranch) for rule in rules):
        return None
    places = trajectory.places()
    readers = sorted(rules, key=lambda rule: rule.kind != "combining")
    return next((rule.name for rule in readers if any(map(rule.reads_null, places))), None)


def check_spaces(rules: Sequence[Rule], trajectory: Trajectory) -> None:
    """Raise `BadValue` where a rule works in a space that cannot be reached at some step (alpha or sigma is 0 there)."""
    nothing = torch.zeros(())
    for step in trajectory.places():
        for space in {rule.space_at(step) for rule in rules} - {None, step.space}:
            convert(nothing, nothing, step.alpha, step.sigma, step.space, str(space))
            difference_scale(step.alpha, step.sigma, str(space), step.space)


def needed(rules: Sequence[Rule], step: Step, states: States) -> tuple[Perturbation, ...]:
    """Further branches of one step, each once; those that give UNCOND only where it is read.

    Where a network has just taken over, what is tracked over the steps starts afresh, and is not evaluated yet.
    """
    read = reads_null(rules, step)
    asked = (_asked(rule, read, step, state) for rule, state in zip(rules, states, strict=True))
    return tuple(dict.fromkeys(b for branches in asked for b in branches if not (step.fresh and b.tracks)))


def _asked(rule: Rule, read: bool, step: Step, state: dict) -> tuple[Perturbation, ...]:
    branches = rule.branches(step) if read or rule.kind != "null" else rule.unread(step)
    return () if branches and rule.spares_weak(step, state) else branches


def evaluates_null(rules: Sequence[Rule], branches: Sequence[Perturbation], step: Step, states: States) -> bool:
    """True where the clean pass of `step` holds the unconditional rows: UNCOND is needed, or a branch uses those rows."""
    needs = needs_null(rules, step, states)
    seen = any(branch.sees_null for branch in branches) and reads_null(rules, step)
    return needs or seen or any(branch.needs_uncond for branch in branches)
