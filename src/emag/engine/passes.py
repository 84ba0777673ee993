"""The passes of one run through its network, and the count of the blocks they evaluate."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ..errors import NoEffect, Unsupported
from ..perturbations.base import Perturbation, Rows, State
from . import output
from .arguments import Arguments
from .blocks import CLEAN, Blocks
from .conditions import Conditions

Forward = Callable[..., Any]


class Passes:
    """Clean and weak passes. evaluations: blocks evaluated so far, per image; images: batch rows of one branch."""

    def __init__(self, blocks: Blocks, conditions: Conditions):
        self.blocks, self.conditions = blocks, conditions
        self.depth = blocks.network.depth
        self.evaluations, self.images = 0, 1

    def other(self, forward: Forward, call: Arguments) -> Any:
        """An evaluation that is the host's own business; it is not counted."""
        return self._pass(forward, call, CLEAN, None, {})

    def clean(self, forward: Forward, call: Arguments, rows: Rows, watching: Sequence[tuple[Perturbation, State]]) -> Any:
        """The host's own evaluation in its own batch layout, watched by weak branches."""
        handlers: dict[int, list[State]] = {}
        for branch, state in watching:
            for block in branch.blocks:
                handlers.setdefault(block, []).append(state)
        self._count(call, self.depth)
        watch = {block: partial(_watch, block, states, rows) for block, states in handlers.items()}
        return self._pass(forward, call, CLEAN, None, watch)

    def weak(self, forward: Forward, call: Arguments, rows: Rows, branch: Perturbation, state: State,
             channels: int | None) -> torch.Tensor:
        """One weak pass: the rows it needs, resumed at the first block that differs; its conditional prediction."""
        state.choose()
        part, own = (None, rows.cond) if branch.all_rows else (rows.cond, slice(None))
        call = call if part is None else call.rows(part)
        self.conditions.rows = rows if part is None else Rows(slice(0, call.total), None, call.total)
        self._count(call, self.depth - branch.resume)
        resumed, fired = self.blocks.resumed, dict(self.blocks.fired)
        handlers = {block: partial(state.perturb, block) for block in branch.blocks}
        answer = self._pass(forward, call, branch.resume + 1, part, handlers)
        self._check_reached(branch, resumed, fired)
        return output.branch(output.sample_of(answer), own, channels)

    def _check_reached(self, branch: Perturbation, resumed: int, fired: dict[int, int]) -> None:
        if self.blocks.resumed != resumed + 1:
            raise NoEffect(f"block {branch.resume} was entered {self.blocks.resumed - resumed} times in a weak pass, "
                           "expected once: something skips or repeats blocks (a cache, skip_layers?)")
        silent = [b for b in branch.blocks if self.blocks.fired.get(b, 0) != fired.get(b, 0) + 1]
        if silent:
            raise NoEffect(f"the attention of blocks {silent} was not reached in a weak pass")

    def _count(self, call: Arguments, blocks: int) -> None:
        self.evaluations += call.total // self.images * blocks

    def _pass(self, forward: Forward, call: Arguments, mode: int, rows: slice | None, handlers: dict[int, Any]) -> Any:
        try:
            with self.blocks.serving(mode, rows, handlers):
                return forward(**call.values)
        except RuntimeError as error:
            if "`torch.compiler.disable()`d function" not in str(error):
                raise
            raise Unsupported("taps break the graph of a compiled network: compile it without fullgraph=True") from error


def _watch(block: int, states: Sequence[State], rows: Rows, call: Any, sdpa: Callable[..., torch.Tensor]) -> torch.Tensor:
    for state in states:
        state.watch(block, call, rows)
    return sdpa(call.q)
