"""ComfyUI's conditions as values, which rules may change."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch

from ...core import Rule, Step

Names = tuple[tuple[str, str], ...]
"""What of a condition rules may change: ComfyUI's names, and ours."""


def changed(conds: list[dict[str, Any]], rules: Sequence[Rule], step: Step, names: Names) -> list[dict[str, Any]]:
    """`conds` with the condition rules applied to their tensors, each made as many rows as there are images."""
    return [_changed(cond, rules, step, names) for cond in conds] if rules else conds


def all_on(conds: Sequence[dict[str, Any]], sigma: float) -> list[dict[str, Any]]:
    """Those of a prompt's conditions that ComfyUI evaluates at `sigma`."""
    return [one for one in conds if one.get("timestep_start", math.inf) >= sigma >= one.get("timestep_end", 0.0)]


def _changed(cond: dict[str, Any], rules: Sequence[Rule], step: Step, names: Names) -> dict[str, Any]:
    held = {ours: cond["model_conds"][theirs] for theirs, ours in names if theirs in cond["model_conds"]}
    values = before = {name: _rows(one.cond, len(step.x)) for name, one in held.items()}
    for rule in rules:
        values = rule.condition(values, step)
    new = {theirs: _holding(held[ours], values[ours]) for theirs, ours in names
           if ours in held and values[ours] is not before[ours]}
    return {**cond, "model_conds": {**cond["model_conds"], **new}} if new else cond


def _rows(value: torch.Tensor, rows: int) -> torch.Tensor:
    """A condition's tensor with `rows` rows, as ComfyUI repeats them."""
    return value if len(value) == rows else value.repeat(-(-rows // len(value)), *[1] * (value.ndim - 1))[:rows]


def _holding(held: Any, value: torch.Tensor) -> Any:
    """A copy of one of ComfyUI's condition values that holds another tensor."""
    new = copy.copy(held)
    new.cond = value
    return new
