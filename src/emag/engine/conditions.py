"""Condition rules at work: on the condition arguments of a call, and on the outputs of condition modules."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..backbones.read import Network
from ..guidance import UNCOND, Rule, Step
from ..perturbations.state import Rows
from .arguments import Arguments
from .undo import Undo, patch


class Conditions:
    """The condition rules of one run. `rows` says which rows the current pass holds."""

    def __init__(self, rules: Sequence[Rule]):
        self.rules = [rule for rule in rules if rule.kind == "condition"]
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
        new = self._on(values, step, rows.cond) if rows.cond.start < rows.cond.stop else values
        if rows.uncond is not None:
            new = self._on(new, replace(step, branch=UNCOND), rows.uncond)
        return new

    def _on(self, values: dict[str, torch.Tensor], step: Step, rows: slice) -> dict[str, torch.Tensor]:
        part = {name: value[rows] for name, value in values.items()}
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
