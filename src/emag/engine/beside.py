"""Passes beside those of a step, clean or of a weak branch: at another x, with gradients where x asks for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..core import Perturbation, State
from .answer import Answer
from .calls import NetworkCall, StepCalls, laid_out
from .checkpointing import check_can, checkpointed, is_on
from .handlers import Group
from .passes import Passes
from .undo import Undo, undone
from .wanted import WHOLE, Pass


@dataclass(frozen=True)
class Beside:
    """Passes of a run beside those of its steps: `passes` counts them, and nobody watches them.

    checkpoint: what is recorded for a backward pass keeps the inputs of the network's parts alone, and backward evaluates
    those again; another network than the run's does not.
    """

    passes: Passes
    checkpoint: bool = False

    def clean(self, call: NetworkCall) -> torch.Tensor:
        """A clean prediction, [rows, ...] fp32."""
        # nothing resumes from it: a pass with inputs of its own records no streams
        return self._made(call, self.passes.strengthened(call.rows, WHOLE)).prediction(slice(None))

    def weak(self, calls: StepCalls, branch: Perturbation, state: State) -> torch.Tensor:
        """A weak prediction, [rows, ...] fp32: from the first block on, since no pass at that x was recorded."""
        group = [(branch, state)]
        asked = self.passes.asked(calls, group)
        now = replace(self.passes.weakened(asked, group), mode=WHOLE)
        call = NetworkCall(calls.clean.forward, asked.arguments, asked.rows)
        return asked.predictions(self._made(call, now, group), group)[0]

    def _made(self, call: NetworkCall, now: Pass, group: Group = ()) -> Answer:
        """The answer of a pass. group: the branch that it is for; none for a clean one."""
        passes, network = self.passes, self.passes.blocks.network.module
        blocks = call.arguments.total // passes.images * passes.depth - sum(branch.skipped for branch, _ in group)
        recorded = torch.is_grad_enabled() and call.arguments.sample.requires_grad
        passes.evaluations += blocks
        passes.recorded += blocks if recorded else 0
        # the user's own switch would evaluate parts again without the taps of this pass
        kept = recorded and (self.checkpoint or is_on(network)) and not any(branch.model for branch, _ in group)
        rows, passes.conditions.rows = passes.conditions.rows, call.rows
        try:
            return undone(partial(self._evaluated, call, now, group, kept))
        finally:
            passes.conditions.rows = rows

    def _evaluated(self, call: NetworkCall, now: Pass, group: Group, kept: bool, undo: Undo) -> Answer:
        forward = self.passes.forward(call.forward, group, undo)
        if kept:
            network = self.passes.blocks.network.module
            check_can(network)
            checkpointed(network, undo, partial(self._again, call, now, group), partial(self._note, call, group))
        return self.passes.evaluate(forward, call.arguments, now)

    @contextmanager
    def _again(self, call: NetworkCall, now: Pass, group: Group) -> Iterator[None]:
        """What is around a part of the network that a backward pass evaluates again: the taps and weights of its pass."""
        undo = Undo()
        try:
            self.passes.forward(call.forward, group, undo)
            with self.passes.blocks.serving(laid_out(call.arguments, now)):
                yield
        finally:
            undo.close()

    def _note(self, call: NetworkCall, group: Group, part: torch.nn.Module) -> None:
        """Count the blocks of a part that is evaluated again, but for those that the branch skips."""
        inside, passes = set(part.modules()), self.passes
        skipped = {at for branch, _ in group if branch.skipped for at in branch.changes}
        found = [block for block in passes.blocks.network.blocks if block.module in inside and block.index not in skipped]
        passes.again += call.arguments.total // passes.images * len(found)
