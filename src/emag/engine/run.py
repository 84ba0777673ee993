"""One run: every network call of one call of the host, from the clean pass to the prediction handed back."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch

from ..backbones.read import Network
from ..errors import Busy, EmagError, NoEffect, Unsupported
from ..guidance import COND, UNCOND, Rule, Step, combine
from ..perturbations.base import Perturbation, Rows, State
from ..streams import Streams
from . import output
from .arguments import Arguments
from .blocks import Blocks
from .conditions import Conditions
from .passes import Passes
from .plan import Plan, plan, weak_branches
from .trajectory import Trajectory

Kind = Literal["both", "cond", "uncond", "other"]


class View(Protocol):
    """What a run asks of its host."""

    uncond: bool  # unconditional rows are evaluated

    def kind(self, arguments: Arguments) -> Kind:
        """What a network call is: both branches in one batch, one of the two, or the host's own business."""
        ...

    def rows(self, kind: Kind, total: int) -> Rows:
        """Where the branches sit in a call of `total` rows."""
        ...

    def trajectory(self) -> Trajectory:
        """The evaluations to come; asked at the first one."""
        ...


@dataclass
class Run:
    """State of one run; dies with it. `rules` are resolved and not neutral."""

    network: Network
    rules: tuple[Rule, ...]
    view: View
    blocks: Blocks
    per_row: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    on_step: Callable[[int, int], None] | None = None
    trajectory: Trajectory | None = None
    plan: Plan | None = None
    seen: int = 0
    states: dict[Perturbation, State] = field(default_factory=dict)
    effects: list[torch.Tensor | None] = field(default_factory=list)
    thread: int = field(default_factory=threading.get_ident)

    def __post_init__(self) -> None:
        self.conditions = Conditions(self.rules)
        self.passes = Passes(self.blocks, self.conditions)
        self.memory: list[dict[str, Any]] = [{} for _ in self.rules]
        self.combines = any(rule.combines for rule in self.rules)
        self._held: tuple[torch.Tensor, dict, Step, int | None] | None = None

    @property
    def evaluations(self) -> int:
        """Blocks evaluated so far, per image."""
        return self.passes.evaluations

    @property
    def images(self) -> int:
        return self.passes.images if self.trajectory else 0

    def install(self, undo: ExitStack) -> None:
        """Put the taps into the network, until `undo` closes."""
        undo.callback(self.blocks.clear)
        self.blocks.install(undo)
        self.conditions.install(self.network, undo)

    def evaluate(self, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """One call of the network by the host; `forward` is the network's own."""
        if threading.get_ident() != self.thread:
            raise Busy(f"this {self.network.backbone.name} serves a guided run in another thread; wait for it")
        call = Arguments.bind(self.network, args, kwargs, self.per_row, self.shared)
        kind = self.view.kind(call)
        if kind == "other":
            return self.passes.other(forward, self.conditions.on(call, Rows(slice(0, call.total), None, call.total)))
        if kind == "uncond":
            return self._second(forward, call)
        return self._first(forward, call, self.view.rows(kind, call.total), kind)

    def _first(self, forward: Callable[..., Any], call: Arguments, rows: Rows, kind: Kind) -> Any:
        """A call with conditional rows: a new step."""
        step = self.conditions.step = self._next_step(call, rows)
        call = self.conditions.on(call, rows)
        answer = self.passes.clean(forward, call, rows, [item for item in self.states.items() if item[1].watches])
        sample = output.sample_of(answer)
        channels = output.guided_channels(sample, call.sample)
        branches: dict[Any, torch.Tensor] = {COND: output.branch(sample, rows.cond, channels)}
        if rows.uncond is not None:
            branches[UNCOND] = output.branch(sample, rows.uncond, channels)
        branches |= self._weak_branches(forward, call, rows, step, channels, branches[COND])
        if self.combines and kind == "cond":
            kept = sample.clone()
            self._held = (kept, branches, step, channels)
            return output.with_sample(answer, kept)
        pred = self._combined(branches, step)
        if pred is branches[COND]:
            return answer
        targets = [rows.cond, rows.uncond] if self.combines else [rows.cond]
        return output.with_sample(answer, output.with_rows(sample, targets, channels, pred))

    def _second(self, forward: Callable[..., Any], call: Arguments) -> Any:
        """The unconditional call of a host that makes two: combine, and put the result into both answers."""
        rows = Rows(slice(0, 0), slice(0, call.total), call.total)
        answer = self.passes.clean(forward, self.conditions.on(call, rows), rows, [])
        if self._held is None:
            return answer
        kept, branches, step, channels = self._held
        self._held = None
        branches[UNCOND] = output.branch(output.sample_of(answer), slice(None), channels)
        kept.copy_(output.with_rows(kept, [slice(None)], channels, self._combined(branches, step)))
        return output.with_sample(answer, kept)

    def _weak_branches(self, forward: Callable[..., Any], call: Arguments, rows: Rows, step: Step,
                       channels: int | None, cond: torch.Tensor) -> dict[Perturbation, torch.Tensor]:
        needed = dict.fromkeys(branch for rule in self.rules for branch in rule.branches(step))
        weak = {b: self.passes.weak(forward, call, rows, b, self.states[b], channels) for b in needed}
        self.effects.append(output.distance(weak, cond) if weak else None)
        return weak

    def _combined(self, branches: dict[Any, torch.Tensor], step: Step) -> torch.Tensor:
        pred = combine(self.rules, branches[COND], branches, step, self.memory)
        if self.on_step is not None:
            self.on_step(self.seen, len(self.trajectory.timesteps) if self.trajectory else 0)
        return pred

    def _next_step(self, call: Arguments, rows: Rows) -> Step:
        x = call.sample[rows.cond]
        if self.trajectory is None:
            self._start(x)
        assert self.trajectory is not None
        if self.seen >= len(self.trajectory.timesteps) or x.shape[0] != self.images or self._held is not None:
            raise EmagError("the network was called out of turn: more evaluations, or other rows, than the run of its "
                            "pipeline has. Do not call it (or a pipeline that shares it) from inside a guided run.")
        _check_time(call, self.trajectory.timesteps[self.seen])
        index = self.trajectory.index[self.seen]
        self.seen += 1
        self.streams.next_step()
        for state in self.states.values():
            state.begin(index)
        t = self.trajectory
        return Step(index, t.sigmas, t.times[index], t.alphas[index], t.sigmas[index], t.space, x.float(), self.streams)

    def _start(self, x: torch.Tensor) -> None:
        """At the first evaluation: trajectory, plan and states."""
        self.trajectory = self.view.trajectory()
        sigmas, index = self.trajectory.sigmas, self.trajectory.index
        self.passes.images, self.streams = x.shape[0], Streams.of(x)
        self.plan = plan(self.rules, self.network.depth, sigmas, index, self.view.uncond)
        self.states = {branch: branch.start(sigmas, self.streams) for branch in weak_branches(self.rules)}

    def check_effect(self) -> None:
        """After a run that went to its end: raise `NoEffect` where a weak branch never differed."""
        if self.trajectory is None or self.seen < len(self.trajectory.timesteps):
            return
        for branch, state in self.states.items():
            if state.differed is None or not bool(state.differed):
                raise NoEffect(f"the weak branch on blocks {list(branch.blocks)} never differed from the clean one: other "
                               "layers, a stronger setting (beta nearer 1, strength nearer 1) or a longer window may help")


def _check_time(call: Arguments, expected: float) -> None:
    """Where the timestep is on the host already, hold it against the scheduler's."""
    backbone = call.network.backbone
    given = call.values.get(backbone.timestep)
    if isinstance(given, torch.Tensor) and given.device.type == "cpu":
        found = float(given.flatten()[0]) * backbone.time_scale
        if abs(found - expected) > 0.01 * max(1.0, abs(expected)):
            raise Unsupported(f"the network was called at timestep {found:g} where the scheduler is at {expected:g}: the "
                              "run's steps are not the scheduler's, or the network was called out of turn")
