"""One run: every network call of one call of the host, from the clean pass to the prediction handed back."""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

import torch

from ..backbones.read import Network
from ..errors import Busy, EmagError, NoEffect, Unsupported
from ..guidance import COND, UNCOND, Rule, Step, combine
from ..perturbations.base import Perturbation, Rows, State
from ..streams import Streams
from . import output
from .arguments import Arguments
from .blocks import CLEAN, Blocks
from .conditions import Conditions
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
    evaluations: int = 0  # block evaluations per image
    images: int = 0
    states: dict[Perturbation, State] = field(default_factory=dict)
    effects: list[torch.Tensor | None] = field(default_factory=list)
    thread: int = field(default_factory=threading.get_ident)

    def __post_init__(self) -> None:
        self.conditions = Conditions(self.rules)
        self.memory: list[dict[str, Any]] = [{} for _ in self.rules]
        self.combines = any(rule.combines for rule in self.rules)
        self._held: tuple[torch.Tensor, dict, Step, int | None] | None = None

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
            return forward(**call.values)
        if kind == "uncond":
            return self._second(forward, call)
        return self._first(forward, call, self.view.rows(kind, call.total), kind)

    def _first(self, forward: Callable[..., Any], call: Arguments, rows: Rows, kind: Kind) -> Any:
        """A call with conditional rows: a new step."""
        step = self._next_step(call, rows)
        call = call.replacing(self.conditions.changed(call.condition(), step, rows))
        self.conditions.step, self.conditions.rows = step, rows
        answer = self._clean(forward, call, rows)
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
        pred = combine(self.rules, branches[COND], branches, step, self.memory)
        self._after(step)
        if pred is branches[COND]:
            return answer
        targets = [rows.cond, rows.uncond] if self.combines else [rows.cond]
        return output.with_sample(answer, output.with_rows(sample, targets, channels, pred))

    def _second(self, forward: Callable[..., Any], call: Arguments) -> Any:
        """The unconditional call of a host that makes two: combine, and put the result into both answers."""
        rows = Rows(slice(0, 0), slice(0, call.total), call.total)
        if self.conditions.step is not None:
            call = call.replacing(self.conditions.changed(call.condition(), self.conditions.step, rows))
            self.conditions.rows = rows
        answer = self._clean(forward, call, rows, watch=False)
        if self._held is None:
            return answer
        kept, branches, step, channels = self._held
        self._held = None
        branches[UNCOND] = output.branch(output.sample_of(answer), slice(None), channels)
        pred = combine(self.rules, branches[COND], branches, step, self.memory)
        kept.copy_(output.with_rows(kept, [slice(None)], channels, pred))
        self._after(step)
        return output.with_sample(answer, kept)

    def _clean(self, forward: Callable[..., Any], call: Arguments, rows: Rows, watch: bool = True) -> Any:
        """The host's own evaluation in its own batch layout, watched by the weak branches."""
        handlers: dict[int, list[Any]] = {}
        for state, branch in ((self.states[b], b) for b in self.states if watch and self.states[b].watches):
            for block in branch.blocks:
                handlers.setdefault(block, []).append(state)
        self.evaluations += call.total // self.images * self.network.depth
        return self._pass(forward, call, CLEAN, None, {b: partial(_watch, b, s, rows) for b, s in handlers.items()})

    def _weak_branches(self, forward: Callable[..., Any], call: Arguments, rows: Rows, step: Step,
                       channels: int | None, cond: torch.Tensor) -> dict[Perturbation, torch.Tensor]:
        needed = dict.fromkeys(branch for rule in self.rules for branch in rule.branches(step))
        weak = {branch: self._weak(forward, call, rows, branch, channels) for branch in needed}
        self.effects.append(output.distance(weak, cond) if weak else None)
        return weak

    def _weak(self, forward: Callable[..., Any], call: Arguments, rows: Rows, branch: Perturbation,
              channels: int | None) -> torch.Tensor:
        """One weak pass: the rows it needs, resumed at the first block that differs."""
        state = self.states[branch]
        state.choose()
        part, own = (None, rows.cond) if branch.all_rows else (rows.cond, slice(None))
        call = call if part is None else call.rows(part)
        self.conditions.rows = rows if part is None else Rows(slice(0, call.total), None, call.total)
        self.evaluations += call.total // self.images * (self.network.depth - branch.resume)
        resumed, fired = self.blocks.resumed, dict(self.blocks.fired)
        handlers = {block: partial(state.perturb, block) for block in branch.blocks}
        answer = self._pass(forward, call, branch.resume + 1, part, handlers)
        if self.blocks.resumed != resumed + 1:
            raise NoEffect(f"block {branch.resume} was entered {self.blocks.resumed - resumed} times in a weak pass, "
                           "expected once: something skips or repeats blocks (a cache, skip_layers?)")
        silent = [b for b in branch.blocks if self.blocks.fired.get(b, 0) != fired.get(b, 0) + 1]
        if silent:
            raise NoEffect(f"the attention of blocks {silent} was not reached in a weak pass")
        return output.branch(output.sample_of(answer), own, channels)

    def _pass(self, forward: Callable[..., Any], call: Arguments, mode: int, rows: slice | None,
              handlers: dict[int, Any]) -> Any:
        self.blocks.mode, self.blocks.rows, self.blocks.handlers = mode, rows, handlers
        try:
            return forward(**call.values)
        finally:
            self.blocks.mode, self.blocks.rows, self.blocks.handlers = CLEAN, None, {}

    def _next_step(self, call: Arguments, rows: Rows) -> Step:
        x = call.sample[rows.cond]
        if self.trajectory is None:
            self._start(x)
        assert self.trajectory is not None
        if self.seen >= len(self.trajectory.timesteps) or x.shape[0] != self.images or self._held is not None:
            raise EmagError("the network was called out of turn: more evaluations, or other rows, than the run of its "
                            "pipeline has. Do not call it (or a pipeline that shares it) from inside a guided run.")
        at, self.seen = self.seen, self.seen + 1
        _check_time(call, self.trajectory.timesteps[at])
        index = self.trajectory.index[at]
        self.streams.next_step()
        for state in self.states.values():
            state.begin(index)
        t = self.trajectory
        return Step(index, t.sigmas, t.times[index], t.alphas[index], t.sigmas[index], t.space, x.float(), self.streams)

    def _start(self, x: torch.Tensor) -> None:
        """At the first evaluation: trajectory, plan and states."""
        self.trajectory = self.view.trajectory()
        sigmas, index = self.trajectory.sigmas, self.trajectory.index
        self.images, self.streams = x.shape[0], Streams.of(x)
        self.plan = plan(self.rules, self.network.depth, sigmas, index, self.view.uncond)
        self.states = {branch: branch.start(sigmas, self.streams) for branch in weak_branches(self.rules)}

    def _after(self, step: Step) -> None:
        if self.on_step is not None:
            self.on_step(self.seen, len(self.trajectory.timesteps) if self.trajectory else 0)

    def check_effect(self) -> None:
        """After a run that went to its end: raise `NoEffect` where a weak branch never differed."""
        if self.trajectory is None or self.seen < len(self.trajectory.timesteps):
            return
        for branch, state in self.states.items():
            if state.differed is None or not bool(state.differed):
                raise NoEffect(f"the weak branch on blocks {list(branch.blocks)} never differed from the clean one: other "
                               "layers, a stronger setting (beta nearer 1, strength nearer 1) or a longer window may help")


def _watch(block: int, states: Sequence[State], rows: Rows, call: Any, sdpa: Callable[..., torch.Tensor]) -> torch.Tensor:
    for state in states:
        state.watch(block, call, rows)
    return sdpa(call.q)


def _check_time(call: Arguments, expected: float) -> None:
    """Where the timestep is on the host already, hold it against the scheduler's."""
    backbone = call.network.backbone
    given = call.values.get(backbone.timestep)
    if isinstance(given, torch.Tensor) and given.device.type == "cpu":
        found = float(given.flatten()[0]) * backbone.time_scale
        if abs(found - expected) > 0.01 * max(1.0, abs(expected)):
            raise Unsupported(f"the network was called at timestep {found:g} where the scheduler is at {expected:g}: the "
                              "run's steps are not the scheduler's, or the network was called out of turn")
