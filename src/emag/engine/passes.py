"""The passes of one run through its network, and the count of the blocks they evaluate."""

from collections.abc import Hashable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from ..core import Perturbation, Rows, Step
from ..errors import NoEffect, Unsupported
from .answer import Answer
from .arguments import Arguments
from .blocks import Blocks
from .calls import Forward, NetworkCall, StepCalls, laid_out
from .checkpointing import freeze
from .conditions import Conditions, conditioned, differs
from .groups import groups, is_whole
from .handlers import Group, changing, entering, looking, perturbing, strengthening, surrounding, watching
from .network import Network
from .reached import Reached
from .swaps import EarlyHead, Times, scale_lora
from .taps import Tap
from .undo import Undo, undone
from .view import Extras
from .wanted import CLEAN, WHOLE, Pass

X = "hidden_states"  # what states call x_t


@dataclass(frozen=True)
class WeakCall:
    """A weak pass: its arguments and where its rows sit; the rows of the clean pass it takes (None: all), where its
    conditional rows are in one copy, and how many copies of them it has."""

    arguments: Arguments
    rows: Rows
    part: slice | None
    own: slice
    times: int

    def predictions(self, answer: Answer, group: Group) -> list[torch.Tensor]:
        """Those of the branches of `group`."""
        made = [part.prediction(self.own) for part in answer.parts(self.times)]
        return made if group[0][0].copies == 1 else [torch.cat(made)]


class Passes:
    """Clean and weak passes. evaluations: blocks evaluated so far, per image; recorded: those among them that were recorded
    for a backward pass; again: those evaluated once more in backward passes, beside them; images: batch rows of one branch.

    strong: branches that work in every pass.
    """

    def __init__(self, blocks: Blocks, conditions: Conditions, extras: Extras):
        self.blocks, self.conditions, self.extras = blocks, conditions, extras
        self.depth = blocks.network.depth
        self.evaluations, self.recorded, self.again, self.images = 0, 0, 0, 1
        self.strong: Group = ()
        self.times, self.head = Times(), EarlyHead()
        self._reached: dict[torch.nn.Module, Reached] = {}

    def watch(self, network: Network, undo: Undo) -> None:
        """Hold every pass through `network` against its first one, until `undo` closes."""
        if network.module not in self._reached:
            self._reached[network.module] = Reached(network, self.blocks.wanted.served)
        self._reached[network.module].install(undo)

    def other(self, call: NetworkCall) -> Answer:
        """An evaluation that is the host's own business; it is not counted."""
        return self.evaluate(call.forward, call.arguments, self.strengthened(call.rows))

    def clean(self, call: NetworkCall, watchers: Group, lookers: Group = ()) -> Answer:
        """The host's own evaluation in its own batch layout. Branches watch it; `lookers` see one for the first time."""
        arguments, rows = call.arguments, call.rows
        self._count(arguments, self.depth)
        # from the inside out: who watches, who changes every pass, who looks on for the first time
        taps, looks = looking(lookers, strengthening(self.strong, watching(watchers, rows), rows))
        now = Pass(taps=taps, looks=looks, changers=entering(self.strong, {}, rows), around=surrounding(self.strong, rows))
        reached = self._reached.get(self.blocks.network.module)

        def made(undo: Undo) -> Answer:
            return self.evaluate(self._looked_at(call.forward, rows.total, lookers, undo), arguments, now)

        with reached.clean() if reached else nullcontext():
            answer = undone(made)
        for state in (state for branch, state in watchers if branch.sees_early):
            state.look_early(self.head.prediction(arguments), rows)
        return answer

    def install(self, network: Network, branches: Iterable[Perturbation], undo: Undo) -> None:
        """Stand behind the parts of `network` that some of `branches` change or look at, until `undo` closes."""
        found = list(branches)
        if any(branch.modules == "time" for branch in found):
            self.times.install(network, undo)
        if any(branch.sees_early for branch in found):
            self.head.install(network, undo)

    def _looked_at(self, forward: Forward, rows: int, lookers: Group, undo: Undo) -> Forward:
        """`forward`, with the time embedders' outputs shown to the branches that will change them."""
        states = [state for branch, state in lookers if branch.modules == "time"]

        def look(name: str, value: torch.Tensor) -> torch.Tensor:
            for state in states:
                state.look_output(value, rows)
            return value

        if states:
            undo.callback(setattr, self.times, "change", None)
            self.times.change = look
        return forward

    def unchanged(self, call: NetworkCall, block: int) -> Answer:
        """The clean pass again, resumed at `block` with nothing changed; it is not counted."""
        return self.evaluate(call.forward, call.arguments, self.strengthened(call.rows, block + 1))

    def strengthened(self, rows: Rows, mode: int = CLEAN) -> Pass:
        """A pass with nothing in it but the branches that work in every one."""
        return Pass(mode, taps=strengthening(self.strong, {}, rows), changers=entering(self.strong, {}, rows),
                    around=surrounding(self.strong, rows))

    def all_weak(self, calls: StepCalls, needed: Group, step: Step, cond: torch.Tensor) -> dict[Hashable, torch.Tensor]:
        """The predictions of the weak branches of a step, those that can share a pass in one. cond: the clean one."""
        for _, state in needed:
            state.predicted(step, cond)
        made: dict[Hashable, torch.Tensor] = {}
        for group in groups(needed, calls.clean.arguments.network.backbone.lone):
            for (branch, state), prediction in zip(group, self.weak(calls, group), strict=True):
                made[branch] = state.at_step(prediction)
        return made

    def weak(self, calls: StepCalls, group: Group) -> list[torch.Tensor]:
        """One weak pass for branches that share it, resumed at the first block that differs; their predictions."""
        branch = group[0][0]
        for _, state in group:
            state.choose()
        asked = self.asked(calls, group)
        self.conditions.rows = asked.rows
        self._count(asked.arguments, self.depth - branch.entry, sum(b.skipped for b, _ in group))
        # blocks before the resume point hand their streams on; what has inputs of its own begins at the first one
        mode = WHOLE if is_whole(*group[0]) else branch.resume + 1
        now = replace(self.weakened(asked, group), mode=mode)
        return asked.predictions(self._checked(calls.clean.forward, asked.arguments, now, group), group)

    def asked(self, calls: StepCalls, group: Group) -> "WeakCall":
        """What the weak pass of `group` is called with."""
        branch, times = group[0][0], len(group) * group[0][0].copies
        call, part, own = calls.of(branch)
        total = call.total * times
        alone = Rows.all_uncond(total) if branch.null else Rows.all_cond(total)
        rows = calls.clean.rows if branch.all_rows else alone
        return WeakCall(self._prepared(call.repeated(times), rows, group), rows, part, own, times)

    def weakened(self, asked: "WeakCall", group: Group) -> Pass:
        """A pass under the branches of `group`, which share it, and under those that work in every one."""
        rows, strong = asked.rows, () if group[0][0].ahead else self.strong
        taps = strengthening(strong, perturbing(group, rows.total // asked.times), rows)
        return Pass(rows=asked.part, repeat=asked.times, taps=taps, changers=entering(strong, changing(group), rows),
                    around=surrounding(strong, rows))

    def _checked(self, forward: Forward, call: Arguments, now: Pass, group: Group) -> Answer:
        """The answer of a weak pass, which has to reach what it is about; another network is not held against anything."""
        def made(undo: Undo) -> Answer:
            return self.evaluate(self.forward(forward, group, undo), call, now)

        if group[0][0].model is not None:
            return undone(made)
        before = self.blocks.resumed, dict(self.blocks.taps.fired), dict(self.blocks.changed)
        reached = self._reached.get(self.blocks.network.module)
        changed = {at for branch, _ in group for at in branch.changes}
        with reached.weak(max(now.mode - 1, 0), changed) if reached else nullcontext():
            answer = undone(made)
        self._check_reached(group, *before)
        return answer

    def _prepared(self, call: Arguments, rows: Rows, group: Group) -> Arguments:
        """The arguments of a weak pass: another condition, or what the branch's state makes of them."""
        branch, state = group[0]
        if branch.null:
            call = self.conditions.on(call, rows)
        if branch.condition is not None:
            given = self.extras.given(branch.condition)
            new = conditioned(call, given)
            if state.differed is None:  # conditions stay what they are over a run: the device is asked once
                state.note(torch.tensor(differs(new, call, given)))
            call = self.conditions.on(new, rows)
        if branch.noisier:
            assert state.now is not None
            time, clock = state.now.time, state.now.clock
            if not clock:
                raise Unsupported("a noisier time is a place further up a schedule of training steps, and this scheduler's "
                                  "timesteps are a function of the noise level: leave the rule out, or take tsg")
            call = call.later((min(time + branch.noisier, 1.0) - time) * clock)
        network, sample = call.network, call.network.backbone.sample
        values = {**call.values, **call.condition(), X: network.latents(call.sample)}
        changed = dict(state.inputs(values, network.backbone.condition))
        x = changed.pop(X, None)
        if x is not None:
            changed[sample] = network.with_latents(call.sample, x)
        return call.replacing(changed) if changed else call

    def forward(self, forward: Forward, group: Group, undo: Undo) -> Forward:
        """What evaluates a pass of `group`: the network, perhaps changed until `undo` closes, or another one."""
        if not group:
            return forward
        branch, state = group[0]
        if branch.model is not None:
            model = self.extras.model(branch.model)
            if isinstance(model, torch.nn.Module) and torch.is_grad_enabled():
                freeze(model, undo)
            return model
        if branch.lora_scale is not None:
            scale_lora(self.blocks.network.module, branch.lora_scale, undo)
        if branch.modules == "time":
            undo.callback(setattr, self.times, "change", None)
            self.times.change = state.output
        return forward

    def _check_reached(self, group: Group, resumed: int, fired: dict[Tap, int], changed: dict[int, int]) -> None:
        first = group[0][0]
        if not is_whole(*group[0]) and self.blocks.resumed != resumed + 1:
            raise NoEffect(f"block {first.resume} was entered {self.blocks.resumed - resumed} times in a weak pass, "
                           "expected once: something skips or repeats blocks (a cache, skip_layers?)")
        silent = sorted({at for b, _ in group for at in b.blocks
                         if self.blocks.taps.fired.get((at, b.cross), 0) != fired.get((at, b.cross), 0) + 1})
        if silent:
            raise NoEffect(f"the attention of blocks {silent} was not reached in a weak pass")
        missed = sorted({at for b, _ in group for at in b.changes if self.blocks.changed.get(at, 0) == changed.get(at, 0)})
        if missed:
            raise NoEffect(f"blocks {missed} were not reached in a weak pass")

    def _count(self, call: Arguments, blocks: int, skipped: int = 0) -> None:
        self.evaluations += call.total // self.images * blocks - skipped

    def evaluate(self, forward: Forward, call: Arguments, now: Pass) -> Answer:
        try:
            with self.blocks.serving(laid_out(call, now)):
                return call.evaluated(forward)
        except RuntimeError as error:
            if "`torch.compiler.disable()`d function" not in str(error):
                raise
            raise Unsupported("taps break the graph of a compiled network: compile it without fullgraph=True") from error
