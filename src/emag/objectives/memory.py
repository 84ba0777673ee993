"""Whose answer depends on the steps before: such a guidance is a teacher along ordered trajectories only."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from ..core import COND, UNCOND, Branches, Perturbation, Rule, Schedule, State, States, Step, combine, with_null
from ..errors import BadValue
from ..maths.streams import Streams
from ..schedules.window import Window

LONG, SHORT = (1.0, 0.9, 0.75, 0.6, 0.5, 0.25), (0.5, 0.25)
"""Noise levels of two made-up runs that have 0.5 in common."""


def memory_of(rule: Rule) -> str | None:
    """Why a rule, its defaults filled in, is defined along a run only, in words; None where it answers at any single time.

    It is asked, on made-up predictions, whether it keeps anything for later, and whether its place in the run changes its
    answer. One that cannot be asked so counts as one that remembers: nothing is guessed.
    """
    try:
        if rule.kind == "condition":
            return "draws the condition anew at every step of a run"
        if any(branch.tracks for branch in rule.weak):
            return "follows a running average over the steps"
        if rule.kind == "attention" or any(map(_watches, rule.weak)):
            return "watches or changes the attention of every pass of a run"
        if any(isinstance(getattr(rule, one.name), (Window, Schedule)) for one in fields(rule)):
            return "acts by its place in a run"
        (alone, _), (_, kept), (elsewhere, _) = _asked(rule, LONG, 0), _asked(rule, LONG, 4), _asked(rule, SHORT, 0)
    except Exception:
        return "cannot be asked apart from a run"
    if _holds(kept):
        return "remembers what it saw at earlier steps"
    return None if _equal(alone, elsewhere) else "acts by its place in a run"


def is_off(rule: Rule) -> bool:
    """Whether a rule, its defaults filled in, is off: it says so, or combines made-up predictions to the conditional one.

    One that cannot be asked so counts as one that is not.
    """
    if rule.neutral or rule.kind != "combining" or rule.rewrites_null:
        return rule.neutral
    try:
        step, branches = _shown(rule, SHORT, 0)
        return torch.allclose(rule.apply(branches[COND], branches, step, {}), branches[COND], atol=1e-5)
    except Exception:
        return False


def guided_once(rules: Sequence[Rule], branches: Branches, step: Step) -> torch.Tensor:
    """What `rules`, with their defaults filled in, make of the predictions of one step: a target, or a part of a residual.

    branches: predictions [batch, ...] in `step.space` by branch, COND among them, in fp32. Returns the like, without a
    gradient. Raises `BadValue` for a rule that remembers: follow its runs in order instead, as `emag bake` does.
    """
    for rule in rules:
        reason = memory_of(rule)
        if reason:
            raise BadValue(f"{rule.name} {reason}: it has no answer at a single time; take its predictions from whole runs")
    states: States = [{} for _ in rules]
    with torch.no_grad():
        given = with_null(rules, branches, step, states)
        return combine(rules, given[COND], given, step, states)


def _watches(branch: Perturbation) -> bool:
    return type(branch.start(LONG, Streams([b"one"]))).watch is not State.watch


def _asked(rule: Rule, sigmas: Sequence[float], before: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a rule says at noise level 0.5 of a run, after so many steps before, and what it then holds."""
    state, last = dict[str, Any](), sigmas.index(0.5)
    answer: tuple[Any, ...] = ()
    for index in range(last - before, last + 1):
        step, branches = _shown(rule, sigmas, index)
        spared = rule.spares_weak(step, state), rule.spares_null(step, state)
        answer = (*spared, rule.new_null(branches, step, state), rule.apply(branches[COND], branches, step, state))
    return answer, state


def _shown(rule: Rule, sigmas: Sequence[float], index: int) -> tuple[Step, dict[Any, torch.Tensor]]:
    """A made-up step and its predictions; seeded by the noise level, so that all runs see the same ones at 0.5."""
    rng = torch.Generator().manual_seed(int(100 * sigmas[index]))
    x, *made = torch.randn(3 + len(rule.weak), 1, 4, 8, 8, generator=rng)
    step = Step(index, tuple(sigmas), tuple(1 - s for s in sigmas), sigmas[index], "flow", x, Streams([b"one"]))
    return step, dict(zip((COND, UNCOND, *rule.weak), made))


def _holds(memory: Any) -> bool:
    """True where something stands in a memory; empty places that were only made do not count."""
    return any(map(_holds, memory.values())) if isinstance(memory, dict) else memory is not None


def _equal(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other))
