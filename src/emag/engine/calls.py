"""The calls of a network in one step: what it is given, and where the branches sit in it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..core import Perturbation, Rows
from ..maths.energies import ordinary
from .arguments import Arguments
from .framed import Frames
from .packed import Packing
from .wanted import Pass

Forward = Callable[..., Any]


@dataclass(frozen=True)
class NetworkCall:
    """One call of a network. forward: the network's own. rows: where the branches sit in it."""

    forward: Forward
    arguments: Arguments
    rows: Rows

    def conditional(self) -> "NetworkCall":
        """The same call for its conditional rows alone."""
        part = self.arguments.rows(self.rows.cond)
        return replace(self, arguments=part, rows=Rows.all_cond(part.total))

    def at(self, x: torch.Tensor, later: float = 0.0) -> "NetworkCall":
        """The same call at another x [samples, ...], the timestep moved by `later` of the scheduler's; differentiable in x.

        All rows of a sample, under whatever condition, are at one x.
        """
        call = self.arguments.later(later) if later else self.arguments
        network = call.network
        rows = torch.cat([x] * (call.total // len(x))) if call.total > len(x) else x
        whole = network.with_latents(call.sample, rows.to(call.sample.dtype))
        return replace(self, arguments=replace(call, values=ordinary({**call.values, network.backbone.sample: whole})))


@dataclass(frozen=True)
class StepCalls:
    """The calls of one step that weak passes are made from: the host's, with both branches or one, and that of the clean
    pass, under the condition rules and perhaps without the unconditional rows."""

    host: NetworkCall
    clean: NetworkCall

    def at(self, x: torch.Tensor) -> "StepCalls":
        """The same calls at another x [samples, ...]."""
        return StepCalls(self.host.at(x), self.clean.at(x))

    def of(self, branch: Perturbation) -> tuple[Arguments, slice | None, slice]:
        """Arguments of a weak pass, the rows of the clean one it takes (None: all), and where its conditional rows are."""
        host, clean = self.host, self.clean
        if branch.all_rows:
            own = clean.rows.uncond if branch.takes_uncond else clean.rows.cond
            assert own is not None
            return clean.arguments, None, own
        if branch.null:
            assert host.rows.uncond is not None
            return host.arguments.rows(host.rows.uncond), clean.rows.cond, slice(None)
        if branch.condition is not None:
            return host.arguments.rows(host.rows.cond), clean.rows.cond, slice(None)
        return clean.arguments.rows(clean.rows.cond), clean.rows.cond, slice(None)


def laid_out(call: Arguments, now: Pass) -> Pass:
    """The pass, told where the rows of `call` hold what."""
    network = call.network
    if any(block.merged for block in network.blocks):
        now = replace(now, image=network.image_tokens(call.values), packing=_packing(call))
    if network.references:
        now = replace(now, references=network.references)
    return replace(now, frames=Frames(call.sample.shape[2])) if network.backbone.framed else now


def _packing(call: Arguments) -> Packing | None:
    name = call.network.backbone.packed
    if name is None:
        return None
    mask = call.values[name]
    return Packing.of(mask.sum(1).long().tolist(), call.network.image_tokens(call.values), mask.device)
