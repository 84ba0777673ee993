"""Conditions of a call: rules at work on its condition arguments and behind condition modules; another one in its place."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..core import UNCOND, Rows, Rule, Step
from ..errors import Unsupported
from .arguments import Arguments
from .network import Network
from .undo import Undo, patch
from .view import Extras


class Conditions:
    """The condition rules of one run. `rows` says which rows the current pass holds."""

    def __init__(self, rules: Sequence[Rule], extras: Extras | None = None):
        self.rules = [rule for rule in rules if rule.kind == "condition"]
        self.extras = extras
        self.step: Step | None = None
        self.rows: Rows | None = None

    def install(self, network: Network, undo: Undo) -> None:
        """Put the rules behind the network's condition modules, until `undo` closes."""
        for module in network.condition_modules() if self.rules else ():
            patch(undo, module, "forward", self._behind(module.forward))

    def on(self, call: Arguments, rows: Rows) -> Arguments:
        """The same call with the rules applied to its condition arguments; what condition modules give follows `rows`."""
        self.rows = rows
        if self.step is None or not self.rules:
            return call
        return call.replacing(self.changed(call.condition(), self.step, rows))

    def changed(self, values: dict[str, torch.Tensor], step: Step, rows: Rows) -> dict[str, torch.Tensor]:
        """Condition tensors of one call [rows, ...] with the rules applied to their conditional and other rows."""
        # each side under its own name, so that noise drawn for one is not that of the other
        new = self._on(values, step, rows.cond) if rows.cond.start < rows.cond.stop else values
        if rows.uncond is not None:
            new = self._on(new, replace(step, branch=UNCOND), rows.uncond)
        return new

    def _on(self, values: dict[str, torch.Tensor], step: Step, rows: slice) -> dict[str, torch.Tensor]:
        part = {name: value[rows] for name, value in values.items()}
        names = [name for rule in self.rules for name in rule.named]
        if names and self.extras is not None:
            step = replace(step, given={name: self.extras.given(name) for name in names})
        after = part
        for rule in self.rules:
            after = rule.condition(after, step)
        return {name: values[name] if after[name] is part[name] else _with_rows(values[name], rows, after[name])
                for name in values}

    def _behind(self, original: Any) -> Any:
        @torch.compiler.disable
        def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
            out = original(*args, **kwargs)
            if self.step is None or self.rows is None:
                return out
            return self.changed({"embedding": out}, self.step, self.rows)["embedding"]

        return forward


def _with_rows(value: torch.Tensor, rows: slice, new: torch.Tensor) -> torch.Tensor:
    value = value.clone()
    value[rows] = new
    return value


def conditioned(call: Arguments, given: dict[str, Any]) -> Arguments:
    """The same call under another condition: the network's arguments, of one row or one for each of the call's."""
    rowed = _rowed(given, call)
    lists = call.network.backbone.lists
    condition = {name: _expanded(value, call.total, name in lists) if name in rowed else value
                 for name, value in given.items()}
    return call.conditioned(condition)


def gathered(given: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """One condition of which row r is that of given[r], of whose values each has one row or one for each of all.

    names: of the conditions. Raises `Unsupported` where they cannot stand in one batch.
    """
    if len(set(names)) == 1:
        return given[0]
    values = {name: [one[name] for one in given] for name in given[0]}
    if not all(isinstance(value, torch.Tensor) and value.shape[1:] == of[0].shape[1:]
               for of in values.values() for value in of):
        raise Unsupported(f"the conditions {', '.join(map(repr, dict.fromkeys(names)))} are no tensors of one shape, and "
                          "images of a batch take different ones: make one image at a time, or texts of one length")
    return {name: torch.stack([value[row if len(value) > 1 else 0] for row, value in enumerate(of)])
            for name, of in values.items()}


def differs(call: Arguments, other: Arguments, given: dict[str, Any]) -> bool:
    """True where the condition `given` made `call` another one than `other`. Waits for the device."""
    return any(_differ(call.value(name), other.value(name)) for name in _rowed(given, call))


def _rowed(given: dict[str, Any], call: Arguments) -> list[str]:
    """Names of what has rows; positions, which have none, follow from the text."""
    backbone = call.network.backbone
    return [name for name in given if name.partition(".")[0] in backbone.per_row or name == backbone.image_prompt]


def _expanded(value: Any, rows: int, by_row: bool) -> Any:
    """A condition of one row, for `rows` of them. by_row: a list is one of rows, and not of tensors with rows."""
    if isinstance(value, list) and not by_row:
        return [_expanded(one, rows, False) for one in value]
    if isinstance(value, list) and len(value) == 1:
        return value * rows
    return value.expand(rows, *value.shape[1:]) if isinstance(value, torch.Tensor) and value.shape[0] == 1 else value


def _differ(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) != len(b) or any(map(_differ, a, b))
    if b is None and isinstance(a, torch.Tensor):
        return not bool((a == 1).all())  # a mask of ones says what none does
    return not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape and bool((a == b).all()))
