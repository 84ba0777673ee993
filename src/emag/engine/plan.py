"""What a run will evaluate, known before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from ..core import Perturbation, Rule, Sparing, Step, evaluates_null, needed_branches, reads_null, weak_branches
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
    prediction. looks: for each evaluation, passes of rules that look further, rows per image of each, those that are
    differentiated first. again: rows per image that backward passes evaluate once more.
    """

    depth: int
    rows: tuple[int, ...]
    host_rows: int
    steps: tuple[tuple[Perturbation, ...], ...]
    reads_null: bool = True
    looks: tuple[tuple[int, int], ...] = ()
    again: int = 0

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
    def further(self) -> int:
        """Block evaluations per image of rules that look further."""
        return sum(map(sum, self.looks)) * self.depth

    @property
    def backward(self) -> int:
        """Blocks per image that a backward pass goes through."""
        return sum(differentiated for differentiated, _ in self.looks) * self.depth

    @property
    def total(self) -> int:
        """Block evaluations per image."""
        return self.clean + self.weak + self.further

    def cost(self, branch: Perturbation) -> int:
        """Block evaluations per image of one weak pass."""
        rows = self.host_rows if branch.all_rows else branch.copies
        return rows * (self.depth - branch.entry) - branch.skipped


def departs(rules: Sequence[Rule]) -> bool:
    """True where the network is evaluated otherwise than the host evaluates it: further passes, or rows left out."""
    further = any(not (branch.observes or branch.strong) for branch in weak_branches(rules))
    return further or any(type(rule).spares_null is not Rule.spares_null or rule.looks_further or _scheduled(rule)
                          for rule in rules)


def _scheduled(value: Any) -> bool:
    """True where a schedule is in it, at whose steps rows may be spared."""
    if isinstance(value, Rule):
        return any(_scheduled(getattr(value, field.name)) for field in fields(value))
    return isinstance(value, Schedule) or (isinstance(value, tuple) and any(map(_scheduled, value)))


def plan(rules: Sequence[Rule], depth: int, trajectory: Trajectory, uncond: bool, paired: bool = False,
         host_rows: int = 2) -> Plan:
    """Plan a run along `trajectory`; paired: no rows are spared; host_rows: per image, where `uncond`.

    Raises `BadValue` where a branch would never be used.
    """
    for branch in weak_branches(rules):
        branch.check(trajectory.sigmas)
    # rules that keep count of the steps are asked with a memory of their own, step by step, as a part of a run asks them
    fresh: list[dict] = [{} for _ in rules]
    places = trajectory.places()
    both = [uncond and (paired or evaluates_null(rules, step, fresh)) for step in places]
    further = tuple(needed_branches(rules, step, fresh) for step in places)
    looks = tuple(_looks(rules, step, 2 if null else 1) for step, null in zip(places, both, strict=True))
    rows, parts = tuple(host_rows if b else 1 for b in both), trajectory.parts
    return Plan(depth, rows * parts, host_rows if uncond else 1, further * parts,
                any(reads_null(rules, step) for step in places), looks * parts, _again(rules, places, both) * parts)


def _looks(rules: Sequence[Rule], step: Step, rows: int) -> tuple[int, int]:
    """Rows per image of what rules evaluate by themselves at a step of `rows` clean ones: differentiated, and not."""
    found = [(look.backward, rows if look.of == "guided" else 1) for rule in rules
             if rule.kind != "null" or reads_null(rules, step) for look in rule.looks(step)]
    return sum(count for backward, count in found if backward), sum(count for backward, count in found if not backward)


def _again(rules: Sequence[Rule], places: Sequence[Step], both: Sequence[bool]) -> int:
    """Rows per image that backward passes evaluate once more, over a run."""
    checkpointed = [rule for rule in rules if Sparing.of(rule).checkpoint]
    return sum(_looks(checkpointed, step, 2 if null else 1)[0] for step, null in zip(places, both, strict=True))


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
        for space in {rule.space_at(step) for rule in rules} - {step.space}:
            if space is not None:
                convert(nothing, nothing, step.alpha, step.sigma, step.space, space)
                difference_scale(step.alpha, step.sigma, space, step.space)
