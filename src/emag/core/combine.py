"""A guidance is an ordered list of rules: what it does with the predictions of one step."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..maths.predictions import Space, convert, difference_scale
from .branch import Perturbation
from .rule import Rule
from .step import UNCOND, Branches, Step

States = Sequence[dict[str, Any]]


def reads_null(rules: Sequence[Rule], step: Step) -> bool:
    """True where UNCOND plays a part at `step`: a rule reads it, or the host does, where no rule combines."""
    return all(rule.kind != "combining" for rule in rules) or any(rule.reads_null(step) for rule in rules)


def needs_null(rules: Sequence[Rule], step: Step, states: States) -> bool:
    """True where UNCOND must be evaluated at `step`: it is read, and no rule gives it."""
    pairs = zip(rules, states, strict=True)
    return reads_null(rules, step) and not any(rule.spares_null(step, state) for rule, state in pairs)


def weak_branches(rules: Sequence[Rule]) -> tuple[Perturbation, ...]:
    """The further branches of all rules, each once, in order."""
    return tuple(dict.fromkeys(branch for rule in rules for branch in rule.weak))


def weak_before(rules: Sequence[Rule], at: int) -> tuple[Perturbation, ...]:
    """The weak branches, each once, that the prediction before rule number `at` is made of."""
    # what gives the unconditional prediction does so wherever it is named
    made = [rule for number, rule in enumerate(rules) if number < at or rule.kind == "null"]
    return tuple(branch for branch in weak_branches(made) if not (branch.observes or branch.strong or branch.ahead))


def condition_names(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Names of the further conditions that rules read, or that their branches are evaluated under, each once."""
    evaluated = [branch.condition for branch in weak_branches(rules) if branch.condition]
    return tuple(dict.fromkeys([*evaluated, *(name for rule in rules for name in rule.named)]))


def needed_branches(rules: Sequence[Rule], step: Step, states: States) -> tuple[Perturbation, ...]:
    """Further branches of one step, each once; those that give UNCOND only where it is read.

    Where a network has just taken over, what is tracked over the steps starts afresh, and is not evaluated yet.
    """
    # a branch that gives UNCOND is no use where nobody reads it
    read = reads_null(rules, step)
    asked = (_asked(rule, read, step, state) for rule, state in zip(rules, states, strict=True))
    return tuple(dict.fromkeys(b for branches in asked for b in branches if not (step.fresh and b.tracks)))


def _asked(rule: Rule, read: bool, step: Step, state: dict[str, Any]) -> tuple[Perturbation, ...]:
    branches = rule.branches(step) if read or rule.kind != "null" else rule.unread(step)
    return () if branches and rule.spares_weak(step, state) else branches


def evaluates_null(rules: Sequence[Rule], step: Step, states: States) -> bool:
    """True where the clean pass of `step` holds the unconditional rows: UNCOND is needed, or a branch uses those rows."""
    branches = weak_branches(rules)
    needs = needs_null(rules, step, states)
    # who watches the unconditional rows keeps them from being spared, but only where UNCOND is read at all
    seen = any(branch.sees_null for branch in branches) and reads_null(rules, step)
    return needs or seen or any(branch.needs_uncond for branch in branches)


def with_null(rules: Sequence[Rule], branches: Branches, step: Step, states: States) -> Branches:
    """The branches of a step, UNCOND given or rewritten by the rules that do so, in order."""
    for rule, state in zip(rules, states, strict=True):
        # where nothing reads UNCOND, no pass is made for it
        if rule.rewrites_null and (not rule.looks_further or reads_null(rules, step)):
            branches = _rewritten(rule, branches, step, state)
    return branches


def combine(rules: Sequence[Rule], pred: torch.Tensor, branches: Branches, step: Step, states: States) -> torch.Tensor:
    """Apply `rules` in order to `pred` [batch, ...], in fp32. A rule that declares a space sees everything in that space.

    The step a rule makes is carried back as a difference, so a rule that changes nothing gives `pred` bit for bit.
    """
    for rule, state in zip(rules, states, strict=True):
        pred = _in_space(rule, pred, branches, step, partial(_applied, rule, state))
    return pred


def _applied(rule: Rule, state: dict[str, Any], pred: torch.Tensor, branches: Branches, step: Step) -> torch.Tensor:
    return rule.apply(pred, branches, step, state)


_Change = Callable[[torch.Tensor, Branches, Step], torch.Tensor]


def _rewritten(rule: Rule, branches: Branches, step: Step, state: dict[str, Any]) -> Branches:
    if UNCOND not in branches:
        # nothing to take a difference to: the rule gives UNCOND whole
        space = rule.space_at(step)
        there = _converted(branches, step, space)
        new = rule.new_null(there, replace(step, space=space or step.space), state)
        return branches if new is None else {**branches, UNCOND: _back(new, step, space)}

    def change(null: torch.Tensor, there: Branches, at: Step) -> torch.Tensor:
        new = rule.new_null(there, at, state)
        return null if new is None else new

    return {**branches, UNCOND: _in_space(rule, branches[UNCOND], branches, step, change)}


def _in_space(rule: Rule, pred: torch.Tensor, branches: Branches, step: Step, change: _Change) -> torch.Tensor:
    """`change` made in the rule's space, and carried back as a difference."""
    space = rule.space_at(step)
    if space is None or space == step.space:
        return change(pred, branches, step)
    # at one x the spaces are affine in one another, so what a rule changed is carried back as a difference, times a scalar:
    # where it changed nothing, `moved` is exactly 0
    here = convert(pred, step.x, step.alpha, step.sigma, step.space, space)
    moved = change(here, _converted(branches, step, space), replace(step, space=space)) - here
    return pred + moved * difference_scale(step.alpha, step.sigma, space, step.space)


def _converted(branches: Branches, step: Step, space: Space | None) -> Branches:
    if space is None or space == step.space:
        return branches
    return {name: convert(p, step.x, step.alpha, step.sigma, step.space, space) for name, p in branches.items()}


def _back(pred: torch.Tensor, step: Step, space: Space | None) -> torch.Tensor:
    return convert(pred, step.x, step.alpha, step.sigma, space or step.space, step.space)
