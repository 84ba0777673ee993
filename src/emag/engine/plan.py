"""What a run will evaluate, known before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from ..core import (
    Look,
    Perturbation,
    Rule,
    Sparing,
    Step,
    evaluates_null,
    needed_branches,
    reads_null,
    weak_before,
    weak_branches,
)
from ..errors import Unsupported
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
    prediction. looks: for each evaluation, block evaluations per image of rules that look further: those that are
    differentiated, and the others. again: block evaluations per image that backward passes make once more.
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
        return sum(map(sum, self.looks))

    @property
    def backward(self) -> int:
        """Blocks per image that a backward pass goes through."""
        return sum(differentiated for differentiated, _ in self.looks)

    @property
    def total(self) -> int:
        """Block evaluations per image."""
        return self.clean + self.weak + self.further

    def cost(self, branch: Perturbation) -> int:
        """Block evaluations per image of one weak pass."""
        return _rows(branch, self.host_rows) * (self.depth - branch.entry) - branch.skipped


def _rows(branch: Perturbation, host_rows: int) -> int:
    """Rows per image of a weak pass."""
    return host_rows if branch.all_rows else branch.copies


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
    made = [Looks(rules, step, 2 if null else 1, weak, depth, host_rows if uncond else 1)
            for step, null, weak in zip(places, both, further, strict=True)]
    rows, parts = tuple(host_rows if b else 1 for b in both), trajectory.parts
    return Plan(depth, rows * parts, host_rows if uncond else 1, further * parts,
                any(reads_null(rules, step) for step in places), tuple(step.blocks() for step in made) * parts,
                sum(step.again() for step in made) * parts)


@dataclass(frozen=True)
class Looks:
    """What rules evaluate by themselves at one step. clean: rows per image of its clean pass; weak: its weak branches;
    host_rows: rows per image of the host's own call."""

    rules: Sequence[Rule]
    step: Step
    clean: int
    weak: Sequence[Perturbation]
    depth: int
    host_rows: int

    def blocks(self) -> tuple[int, int]:
        """Block evaluations per image: those that are differentiated, and the others."""
        found = [(look.backward, self._cost(at, look)) for at, look in self._asked()]
        return sum(cost for backward, cost in found if backward), sum(cost for backward, cost in found if not backward)

    def again(self) -> int:
        """Block evaluations per image that backward passes make once more; another network does not."""
        return sum(self._cost(at, look, others=False) for at, look in self._asked()
                   if look.backward and Sparing.of(self.rules[at]).checkpoint)

    def _asked(self) -> list[tuple[int, Look]]:
        """Each evaluation, by the number of the rule that asks for it; where nothing reads UNCOND, none is made for it."""
        read = reads_null(self.rules, self.step)
        return [(at, look) for at, rule in enumerate(self.rules) if read or rule.kind != "null"
                for look in rule.looks(self.step)]

    def _cost(self, at: int, look: Look, others: bool = True) -> int:
        """Block evaluations per image of one evaluation that rule number `at` asks for. others: by other networks too."""
        if look.of != "guided":
            return self.depth
        weak = [branch for branch in weak_before(self.rules, at) if branch in self.weak and (others or not branch.model)
                and branch.acts(self.step.index, self.step.sigmas)]
        # what gives UNCOND may look there in its turn
        inside = sum(self.depth for number, _ in self._asked() if self.rules[number].kind == "null")
        return self.clean * self.depth + inside + sum(
            _rows(branch, self.host_rows) * self.depth - branch.skipped for branch in weak)


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


def check_lone(rules: Sequence[Rule], trajectory: Trajectory) -> None:
    """Raise `Unsupported` where a rule evaluates the network once more in some step, and another serves what it kept."""
    keeps = next((rule.name for rule in rules if any(branch.lone for branch in rule.weak)), None)
    again = next((rule.name for rule in rules if any(map(rule.looks, trajectory.places()))), None) if keeps else None
    if again:
        raise Unsupported(f"{keeps} serves one pass a step what it kept of earlier ones, and {again} evaluates the network "
                          "once more in it: leave one of the two out")
