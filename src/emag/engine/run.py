"""One run: every call of a network by its host, from what comes in to what goes back. `Run.evaluate` tells the story."""

import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..core import COND, UNCOND, Branches, Rule, weak_branches
from ..errors import Busy
from .access import NetworkEvaluations
from .answer import Answer
from .arguments import Arguments, check_copies
from .awaited import Journal
from .blocks import Blocks
from .calls import Forward, NetworkCall, StepCalls
from .checkpointing import freeze
from .conditions import Conditions
from .course import Course
from .finite import Finite
from .network import Network
from .passes import Passes
from .plan import departs
from .step_rules import StepRules
from .undo import Undo
from .view import View

ALL = slice(None)


@dataclass(frozen=True)
class StepResult:
    """What the host is to read in its conditional and in its unconditional rows, fp32; None leaves what was evaluated."""

    cond: torch.Tensor | None
    null: torch.Tensor | None


@dataclass(frozen=True)
class Held:
    """The first of two answers of a step, which the host has already. result: of a step that needs no second evaluation;
    journal: else, what the host makes of the first before it asks for the second."""

    answer: Answer
    branches: Branches
    result: StepResult | None = None
    journal: Journal | None = None


@dataclass
class Run:
    """State of one run; dies with it. `rules` are resolved and not neutral.

    others: blocks of further networks of the same depth, one of which may take over between two steps. States that come of
    the attention of the network before then start afresh; the random streams and the memory of rules go on.
    """

    network: Network
    rules: tuple[Rule, ...]
    view: View
    blocks: Blocks
    per_row: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    on_step: Callable[[int, int], None] | None = None
    others: tuple[Blocks, ...] = ()
    thread: int = field(default_factory=threading.get_ident)

    def __post_init__(self) -> None:
        self.all_blocks = (self.blocks, *self.others)  # `blocks` are those of the network that serves just now
        self.conditions = Conditions(self.rules, self.view)
        self.passes = Passes(self.blocks, self.conditions, self.view)
        self.course = Course(self.network, self.rules, self.view, self.masks)
        self.finite = Finite()
        self.combines = any(rule.kind == "combining" for rule in self.rules)
        self.looks = any(rule.looks_further for rule in self.rules)
        self.further = weak_branches(self.rules)
        self._held: Held | None = None
        self._calls: dict[str, NetworkCall] = {}  # of the clean branches of the step
        self._all: StepCalls  # those of its first call, which has the conditional rows
        self._references: int | None = None  # tokens of reference images behind x_t

    def install(self, undo: Undo) -> None:
        """Put the taps into the networks, until `undo` closes."""
        for blocks in self.all_blocks:
            undo.callback(blocks.clear)
            if departs(self.rules):
                self.passes.watch(blocks.network, undo)
            blocks.install(undo)
            if self.looks:
                freeze(blocks.network.module, undo)
            self.conditions.install(blocks.network, undo)
            self.passes.install(blocks.network, self.further, undo)

    def evaluate(self, forward: Forward, args: tuple, kwargs: dict[str, Any], blocks: Blocks | None = None) -> Any:
        """One call of a network by the host; `forward` is the network's own. blocks: its blocks, where there are several."""
        self._serve(blocks or self.blocks)
        # 0 what came in; the numbers are those of "The path of one step" in docs/architecture.md
        arguments = self._bound(args, kwargs)
        kind = self.view.kind(arguments)
        call = NetworkCall(forward, arguments, self.view.rows(kind, arguments.total))
        # 1 to 7 what is evaluated and combined for it
        if kind == "other":
            answer = self.passes.other(self._conditioned(call))
        elif kind == "uncond":
            answer = self._second(call)
        else:
            answer = self._first(call, in_two=kind == "cond" and self.view.uncond and not self.view.alone)
        # 8 what goes back
        journal = self._held.journal if self._held is not None else None
        return answer.for_host(self.combines, journal.mark if journal is not None else None)

    def finish(self) -> None:
        """After the host has come to its end. Raises `NotFinite`, and `NoEffect` where a branch changed nothing."""
        self.finite.finish()
        self.course.check_effect()

    def _first(self, host: NetworkCall, in_two: bool) -> Answer:
        """A call with conditional rows: a new step. in_two: the host makes a second call for the unconditional rows."""
        self._begin(host)  # 1
        spared = self.view.uncond and not self._evaluates_null()
        calls = StepCalls(host, self._conditioned(host.conditional() if spared else host))  # 2
        answer, branches = self._evaluated(calls)  # 3 to 5
        if in_two and not spared:  # the host gets a copy of its own, to be overwritten when the second call comes
            self._held = Held(answer.with_sample(answer.sample.clone()), branches, journal=Journal())
            return self._held.answer
        result = self._result(branches, answer)  # 6, 7
        if in_two:
            self._held = Held(answer, branches, result)
            return answer.put((ALL, result.cond))
        times = host.rows.total // len(answer.sample)
        whole = answer.repeated(times) if times > 1 else answer
        # what the host makes of equal predictions is that prediction, however it weighs them
        between = result.null if self.combines else None
        return whole.put((host.rows.cond, result.cond), (host.rows.between, between), (host.rows.uncond, result.null))

    def _second(self, call: NetworkCall) -> Answer:
        """A call with unconditional rows alone: made where it is needed, then combined with the one before, or rewritten."""
        held, self._held = self._held, None
        if held is not None and held.result is not None:
            return held.answer.put((ALL, held.result.null))
        call = self._conditioned(call)
        answer = self.passes.clean(call, self.course.watching(observers=True))
        if held is None:
            return answer
        self._calls[UNCOND] = call
        self.course.look(self.now.step)
        null = answer.prediction(ALL)
        self.now.check({UNCOND: null})
        result = self._result({**held.branches, UNCOND: null}, held.answer)
        ours = held.answer.put((ALL, result.cond))
        held.answer.overwrite(ours)
        if held.journal is not None:
            held.journal.close()
        return answer.with_sample(ours.sample) if self.combines else answer.put((ALL, result.null))

    def _serve(self, blocks: Blocks) -> None:
        """The network of `blocks` is called: the one that served so far, or one that takes over."""
        if threading.get_ident() != self.thread:
            raise Busy(f"this {self.network.backbone.name} serves a guided run in another thread; wait for it")
        if blocks is not self.blocks:
            self.blocks = self.passes.blocks = blocks
            self.network = blocks.network
            self.course.change(self.network)

    def _bound(self, args: tuple, kwargs: dict[str, Any]) -> Arguments:
        """The arguments of a call. How many tokens are those of reference images is read off the first one."""
        if self._references is None:
            check_copies(self.network, args, kwargs)
        call = Arguments.bind(self.network, args, kwargs, self.per_row, self.shared)
        if self._references is None:
            self._references = self.network.references_in(call.values)
        return replace(call, network=replace(self.network, references=self._references)) if self._references else call

    def _conditioned(self, call: NetworkCall) -> NetworkCall:
        """The same call under the condition rules."""
        return replace(call, arguments=self.conditions.on(call.arguments, call.rows))

    def _begin(self, call: NetworkCall) -> None:
        """The step that a call begins, and the rules at work in it."""
        step = self.course.next(call.arguments, call.rows.cond, self._held is not None, self.view.alone)
        rules = StepRules(step, self.rules, self.course.memory, self.finite)
        self.now = rules.alone("the pipeline") if self.view.alone else rules
        self.now.check_input()
        self.conditions.step = step
        self.passes.images = self.course.images
        self.passes.strong = self.course.with_states([branch for branch in self.further if branch.strong])

    def _evaluates_null(self) -> bool:
        """True where the unconditional rows are evaluated in this step, in this call or in the host's second one."""
        return not self.view.alone and (self.network.backbone.paired or self.now.evaluates_null())

    def _evaluated(self, calls: StepCalls) -> tuple[Answer, Branches]:
        """The answer of the clean pass, and the predictions of all branches of the step."""
        needed = self.course.with_states(self.now.needed())
        for item in (item for item in needed if item[0].ahead):
            self.passes.weak(calls, [item])
        answer = self.passes.clean(calls.clean, self.course.watching(), self.course.looking())
        self.course.look(self.now.step)
        rows = calls.clean.rows
        self._all = calls
        self._calls = {COND: calls.clean} | ({UNCOND: calls.clean} if rows.uncond is not None else {})
        branches: dict[Hashable, torch.Tensor] = {COND: answer.prediction(rows.cond)}
        if rows.uncond is not None:
            branches[UNCOND] = answer.prediction(rows.uncond)
        weak = self.passes.all_weak(calls, [item for item in needed if not item[0].ahead], self.now.step, branches[COND])
        self.course.take_down(weak, branches[COND])
        branches |= weak
        self.now.check(branches)
        return answer, branches

    def _result(self, branches: Branches, answer: Answer) -> StepResult:
        """What the rules make of the branches, for a host that gets it in the dtype of `answer`."""
        now = self.now
        if self.looks:
            host = NetworkEvaluations(now.step, self.passes, self._calls, self._all, self.course.states, self.view)
            now = now.seeing(host, branches)
        after = now.with_null(branches)
        pred = now.result(after)
        if pred is not branches[COND]:
            self.now.check_cast(pred, answer.sample.dtype)
        self.now.end()
        if self.on_step is not None:
            self.on_step(self.course.seen, self.course.count)
        null = pred if self.combines else after.get(UNCOND)
        return StepResult(None if pred is branches[COND] else pred, None if null is branches.get(UNCOND) else null)
