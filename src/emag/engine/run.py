"""One run: every network call of one call of the host, from the clean pass to the prediction handed back."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..backbones.read import Network
from ..errors import Busy
from ..guidance import COND, UNCOND, Rule, Step
from ..perturbations.base import Perturbation
from ..perturbations.state import Rows, State
from . import form, output
from .arguments import Arguments
from .blocks import Blocks
from .combined import combined
from .conditions import Conditions
from .course import Course
from .finite import Finite
from .passes import Passes, Place, groups
from .plan import departs, evaluates_null, needed, weak_branches
from .present import Present
from .undo import Undo
from .view import Kind, View


@dataclass(frozen=True)
class Evaluated:
    """One step's branches, and the answer they came in. spared: the unconditional evaluation was not made."""

    answer: Any
    branches: Mapping[Any, torch.Tensor]
    step: Step
    channels: int | None
    spared: bool


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
        self.conditions = Conditions(self.rules)
        self.passes = Passes(self.blocks, self.conditions, self.view)
        self.course = Course(self.network, self.rules, self.view, self.masks)
        self.finite = Finite()
        self.combines = any(rule.kind == "combining" for rule in self.rules)
        self.further = weak_branches(self.rules)
        self._first: tuple[Evaluated, torch.Tensor] | None = None  # of two calls: what it gave, and the answer kept
        self._lent: torch.Tensor | None = None  # the answer kept, as the host has it
        self._references: int | None = None  # tokens of reference images behind x_t

    def install(self, undo: Undo) -> None:
        """Put the taps into the networks, until `undo` closes."""
        for blocks in self.all_blocks:
            undo.callback(blocks.clear)
            if departs(self.rules):
                self.passes.watch(blocks.network, undo)
            blocks.install(undo)
            self.conditions.install(blocks.network, undo)
            if any(branch.modules == "time" for branch in self.further):
                self.passes.times.install(blocks.network, undo)

    def evaluate(self, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any],
                 blocks: Blocks | None = None) -> Any:
        """One call of a network by the host; `forward` is the network's own. blocks: its blocks, where there are several."""
        if blocks is not None and blocks is not self.blocks:
            self.blocks = self.passes.blocks = blocks
            self.network = blocks.network
            self.course.change(self.network)
        handed = form.handed(self._evaluated(forward, args, kwargs), self.network.backbone)
        if self._first is not None:
            self._lent = output.sample_of(handed)
        return output.with_sample(handed, combined(output.sample_of(handed))) if self.combines else handed

    def _evaluated(self, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            raise Busy(f"this {self.network.backbone.name} serves a guided run in another thread; wait for it")
        call = self._bound(args, kwargs)
        kind = self.view.kind(call)
        if kind == "other":
            return self.passes.other(forward, self.conditions.on(call, Rows.all_cond(call.total)))
        if kind == "uncond":
            return self._uncond(forward, call)
        rows = self.view.rows(kind, call.total)
        found = self._step(forward, call, rows, kind)
        second = kind == "cond" and self.view.uncond and not self.view.alone
        return self._hold(found) if second else self._hand_back(found, rows)

    def finish(self) -> None:
        """After the host has come to its end. Raises `NotFinite`, and `NoEffect` where a branch changed nothing."""
        self.finite.finish()
        self.course.check_effect()

    def _bound(self, args: tuple, kwargs: dict[str, Any]) -> Arguments:
        """The arguments of a call. How many tokens are those of reference images is read off the first one."""
        call = Arguments.bind(self.network, args, kwargs, self.per_row, self.shared)
        if self._references is None:
            self._references = self.network.references_in(call.values)
        return replace(call, network=replace(self.network, references=self._references)) if self._references else call

    def _step(self, forward: Callable[..., Any], call: Arguments, host: Rows, kind: Kind) -> Evaluated:
        """A call with conditional rows: a new step, with every branch it needs."""
        step = self.conditions.step = self.course.next(call, host.cond, self._first is not None, self.view.alone)
        now = self._begin(step)
        spared = self.view.uncond and (self.view.alone or not (self.network.backbone.paired or evaluates_null(
            now.rules, self.further, step, now.states)))
        rows = Rows.all_cond(self.course.images) if spared and kind == "both" else host
        place = Place(self.conditions.on(call if rows is host else call.rows(host.cond), rows), rows, call, host)
        wanted = self.course.held(needed(now.rules, step, now.states))
        for one in (item for item in wanted if item[0].ahead):
            self.passes.weak(forward, place, [one], None)
        answer = self.passes.clean(forward, place.call, rows, self.course.watching(), self.course.looking())
        sample = output.sample_of(answer)
        channels = output.guided_channels(sample, call.network.latents(call.sample))
        branches: dict[Any, torch.Tensor] = {COND: output.branch(sample, rows.cond, channels)}
        if rows.uncond is not None:
            branches[UNCOND] = output.branch(sample, rows.uncond, channels)
        self.course.look(step)
        held = [item for item in wanted if not item[0].ahead]
        branches |= self._further(forward, place, held, step, channels, branches[COND])
        now.look(branches)
        return Evaluated(answer, branches, step, channels, spared)

    def _begin(self, step: Step) -> Present:
        """What the first step settles, and the rules at work in this one."""
        self.passes.images = self.course.images
        self.passes.strong = self.course.held([branch for branch in self.further if branch.strong])
        now = Present(step, self.rules, self.course.memory, self.finite)
        self.present = now.alone("the pipeline") if self.view.alone else now
        self.finite.ask(f"{now.place}: x_t", "host", step.x)
        return self.present

    def _further(self, forward: Callable[..., Any], place: Place, held: list[tuple[Perturbation, State]], step: Step,
                 channels: int | None, cond: torch.Tensor) -> dict[Perturbation, torch.Tensor]:
        weak: dict[Perturbation, torch.Tensor] = {}
        for _, state in held:
            state.predicted(step, cond)
        for group in groups(held):
            made = self.passes.weak(forward, place, group, channels)
            weak |= {branch: state.at_step(pred) for (branch, state), pred in zip(group, made, strict=True)}
        self.course.take_down(weak, cond)
        return weak

    def _hand_back(self, found: Evaluated, host: Rows) -> Any:
        """The answer for a host that gets both branches, or its only one, at once."""
        after, sample = self.present.with_null(found.branches), output.sample_of(found.answer)
        pred = self._combined(after, sample)
        new = [(host.cond, pred)]
        if host.uncond is not None and (self.combines or after.get(UNCOND) is not found.branches.get(UNCOND)):
            new.append((host.uncond, pred if self.combines else after[UNCOND]))
        if len(new) == 1 and pred is found.branches[COND]:
            return found.answer
        whole = torch.cat([sample, sample]) if len(sample) < host.total else sample
        return output.with_sample(found.answer, output.with_rows(whole, new, found.channels))

    def _hold(self, found: Evaluated) -> Any:
        """The answer to the first of two calls: ours where there is no second, else one to be overwritten then."""
        sample = output.sample_of(found.answer)
        if not found.spared:
            self._first = found, sample.clone()
            return output.with_sample(found.answer, self._first[1])
        after = self.present.with_null(found.branches)
        pred = self._combined(after, sample)
        kept = sample if pred is after[COND] else output.with_rows(sample, [(slice(None), pred)], found.channels)
        self._first = Evaluated(found.answer, after, found.step, found.channels, True), kept
        return found.answer if kept is sample else output.with_sample(found.answer, kept)

    def _uncond(self, forward: Callable[..., Any], call: Arguments) -> Any:
        """The unconditional call of a host that makes two: made where it is needed, then combined or rewritten."""
        rows, first = Rows.all_uncond(call.total), self._first
        self._first = None
        if first is not None and first[0].spared:
            return self._spared(*first)
        answer = self.passes.clean(forward, self.conditions.on(call, rows), rows, self.course.watching(observers=True))
        if first is None:
            return answer
        found, kept = first
        self.course.look(found.step)
        null = output.branch(output.sample_of(answer), slice(None), found.channels)
        self.present.look({UNCOND: null})
        after = self.present.with_null({**found.branches, UNCOND: null})
        pred = self._combined(after, kept)
        if pred is not found.branches[COND]:
            kept.copy_(output.with_rows(kept, [(slice(None), pred)], found.channels))
            if self._lent is not None and self._lent is not kept:
                for lent, row in zip(self._lent, form.handed(kept, self.network.backbone), strict=True):
                    lent.copy_(row)
        if self.combines:
            return output.with_sample(answer, kept)
        if after[UNCOND] is null:
            return answer
        new = output.with_rows(output.sample_of(answer), [(slice(None), after[UNCOND])], found.channels)
        return output.with_sample(answer, new)

    def _spared(self, found: Evaluated, kept: torch.Tensor) -> Any:
        """The answer to an unconditional call that need not be made."""
        if not self.combines:
            kept = output.with_rows(kept, [(slice(None), found.branches[UNCOND])], found.channels)
        return output.with_sample(found.answer, kept)

    def _combined(self, branches: Mapping[Any, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        """The result of the rules, which the host gets in the dtype of `sample`."""
        pred = self.present.result(branches)
        if pred is not branches[COND]:
            self.present.handed(pred, sample.dtype)
        self.finite.after_step()
        if self.on_step is not None:
            self.on_step(self.course.seen, self.course.count)
        return pred
