"""ComfyUI's conditions as values: changed by rules, and those of a weak pass as its clean pass had them."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...core import Rule, Step

Names = tuple[tuple[str, str], ...]
"""What of a condition rules may change: ComfyUI's names, and ours."""


def changed(conds: list[dict[str, Any]], rules: Sequence[Rule], step: Step, names: Names) -> list[dict[str, Any]]:
    """`conds` with the condition rules applied to their tensors, each made as many rows as there are images."""
    return [_changed(cond, rules, step, names) for cond in conds] if rules else conds


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


def as_evaluated(conds: list[dict[str, Any]], texts: Mapping[Any, int | None]) -> list[dict[str, Any]]:
    """`conds` with each text as long as the clean pass had it.

    Where two texts of different lengths share a batch, ComfyUI repeats both until they are of one length. A pass of one
    alone that goes on from what was recorded there needs the same.
    """
    return [_repeated(cond, texts.get(cond["uuid"])) for cond in conds]


def _repeated(cond: dict[str, Any], length: int | None) -> dict[str, Any]:
    text = cond["model_conds"].get("c_crossattn")
    own = getattr(getattr(text, "cond", None), "shape", (0, 0))[1]
    if length is None or not own or length == own or length % own:
        return cond
    longer = _holding(text, text.cond.repeat(1, length // own, 1))
    return {**cond, "model_conds": {**cond["model_conds"], "c_crossattn": longer}}
