"""One run: what ComfyUI's sampler does between its first and its last step, under a guidance.

ComfyUI evaluates a step in one batch call (`calc_cond_batch`). Ours stands around it: the clean pass is ComfyUI's own
batch, further branches are the same call for the conditional rows alone, and what the rules make of them is handed back
in the place of its predictions.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...core import COND, UNCOND, Perturbation, Rule, RunStart, State, Step, weak_branches
from ...engine.blocks import Blocks, blocks_of
from ...engine.course import SAME
from ...engine.finite import Finite
from ...engine.network import Network
from ...engine.plan import check_spaces
from ...engine.step_rules import StepRules
from ...engine.undo import Undo
from ...errors import Unsupported
from ...maths.streams import Streams
from ...maths.vectors import relative_distance
from .checks import check_read
from .conditions import all_on, changed
from .handing import handed
from .levels import Levels, moved, prediction
from .networks import Layout
from .passes import NetworkCall, Passes
from .setting import Batch, Setting
from .sites import Ahead, Sites

X = "hidden_states"  # what states call x_t


class Run:
    """State of one run; dies with it. rules: resolved and not neutral. result: the guided clean sample of the latest step.
    pair: the clean samples that the clean and the weak prediction mean, at the last step with a weak pass."""

    def __init__(self, network: Network, rules: Sequence[Rule], levels: Levels, layout: Layout, setting: Setting):
        self.network, self.rules, self.levels, self.layout, self.setting = network, tuple(rules), levels, layout, setting
        self.combines = any(rule.kind == "combining" for rule in rules)
        self.further = weak_branches(rules)
        self.blocks: Blocks = blocks_of(network, self.further)
        self.finite = Finite()
        self.memory: list[dict[str, Any]] = [{} for _ in self.rules]
        self.steps = self.images = 0
        self.seen: list[float] = []  # the noise levels of the evaluations so far
        self.evaluated: list[tuple[Perturbation, ...]] = []  # the further branches of each
        self.lead: Hashable = None  # the condition that stands for the prompt: the first one that is on as the run begins
        self.waiting = False  # the next batch call is the step's own
        self.branch: Perturbation | None = None
        self.making: str | None = None  # "clean" or "weak" while we evaluate
        self.result: torch.Tensor | None = None
        self.pair: tuple[torch.Tensor, torch.Tensor] | None = None
        self.passes: Passes | None = None
        check_spaces(self.rules, levels.trajectory)

    def install(self, undo: Undo) -> None:
        """Put the taps into the network, until `undo` closes."""
        undo.callback(self.blocks.clear)
        self.blocks.install(undo)

    def begin(self, x: torch.Tensor, uncond: bool) -> None:
        """The first step is here: x [batch, ...] as the network sees it. uncond: ComfyUI evaluates the negative conditions,
        which it does not at cfg 1. Raises what the rules say of such a run."""
        check_read(self.rules, uncond)
        self.streams, self.images = Streams.of(x), len(x)
        self.sites = Sites(self.network, self.rules, Ahead(self.levels.trajectory, uncond), self.streams)
        self.passes = Passes(self.blocks, self.sites, self.layout, self.images)
        places = tuple(self.levels.trajectory.places())
        for rule in self.rules:
            rule.fits_run(RunStart(replace(places[0], x=x.float(), streams=self.streams), places, self.layout.grid(x)))

    def step(self, batch: Batch, conds: Sequence[Any], x: torch.Tensor, sigma: float) -> list[torch.Tensor]:
        """One step's predictions of the clean sample, [conditional, unconditional], as the rules leave them."""
        if len(conds) != 2 or conds[0] is None:
            raise Unsupported(f"this guider evaluates {len(conds)} conditions in a step; emag serves a positive and a "
                              "negative one (KSampler, CFGGuider, BasicGuider)")
        if self.passes is None:
            self.lead = (all_on(conds[0], sigma) or conds[0])[0]["uuid"]
            self.begin(x * self.levels.scale(sigma), conds[1] is not None)
        present = self._present(x, sigma)
        wanted = present.needed()
        self.evaluated.append(wanted)
        conds = self._spared(self._conditions(conds, present.step), present, batch.watched)
        ahead = {branch: self._weak(branch, batch, conds[0], x, sigma, present.step) for branch in wanted if branch.ahead}
        out = self._clean(batch, conds, x, present.step)
        branches = self._branches(out, conds[1] is not None, present.step) | ahead
        for branch in (branch for branch in wanted if not branch.ahead):
            for site in self.sites.found.values():
                site.states[branch].predicted(present.step, branches[COND])
            branches[branch] = self._weak(branch, batch, conds[0], x, sigma, present.step)
            self.pair = out[0], moved(out[0], branches[branch] - branches[COND], present.step)
        self._take_down(branches)
        present.check(branches)
        after = present.with_null(branches)
        pred = present.result(after)
        self.finite.after_step()
        back = handed(out, branches, after, pred, present.step)
        if not self.combines:
            return back
        self.result = back[0]
        return [out[0], back[1]]

    def network_call(self, call: NetworkCall) -> torch.Tensor:
        """One call of the network, whoever makes it."""
        assert self.passes is not None
        if self.making == "clean":
            return self.passes.clean(call)
        if self.making == "weak" and self.branch is not None:
            return self.passes.weak(self.branch, call)
        return self.passes.other(call)

    def finish(self) -> None:
        """After the sampler has come to its end. Raises `NotFinite`, and `NoEffect` where a branch changed nothing."""
        self.finite.finish()
        known = [self.levels.at(sigma) for sigma in self.seen]
        own = known.count(None) > len(known) / 2  # a sampler that chooses its levels: dpm_fast, dpm_adaptive
        reached = {self.levels.index(sigma) for sigma in self.seen}
        if not own and len(reached) < len(self.levels.sigmas):
            raise Unsupported(f"{len(self.levels.sigmas)} steps were planned and {len(reached)} came to the guidance: "
                              "another node (a cache?) answered the others: leave one of the two out")
        self.sites.prove_effect()

    def _present(self, x: torch.Tensor, sigma: float) -> StepRules:
        if len(x) != self.images:
            raise Unsupported(f"the batch had {self.images} rows at the start of this run, and now {len(x)}")
        self.streams.next_step()
        step = self.levels.step(x, sigma, self.streams)
        self.steps += 1
        self.seen.append(sigma)
        self.sites.reach(step, self.lead)
        present = StepRules(step, self.rules, self.memory, self.finite)
        present.check_input()
        return present

    def _conditions(self, conds: Sequence[Any], step: Step) -> list[Any]:
        """The conditions of a step after the rules about them."""
        rules = [rule for rule in self.rules if rule.kind == "condition"]
        branches = step, replace(step, branch=UNCOND)
        return [cond and changed(cond, rules, at, self.setting.names) for cond, at in zip(conds, branches, strict=True)]

    def _spared(self, conds: list[Any], present: StepRules, watched: bool) -> list[Any]:
        """The conditions that are evaluated: the negative ones are left out where a rule gives what they would."""
        if conds[1] is None or watched or present.evaluates_null():
            return conds
        assert self.passes is not None
        self.passes.spare(len(all_on(conds[1], self.seen[-1])))
        return [conds[0], None]

    def _clean(self, batch: Batch, conds: list[Any], x: torch.Tensor, step: Step) -> list[torch.Tensor]:
        self.making = "clean"
        try:
            out = batch(conds, x)
        finally:
            self.making = None
        if self.sites.lead not in self.sites.found:
            raise Unsupported("the network was not called in a step: another node (a cache?) gave its answer, and a "
                              "guidance cannot see inside it. Leave one of the two out")
        self.sites.leading().course.look(step)
        return out

    def _branches(self, out: list[torch.Tensor], uncond: bool, step: Step) -> dict[Any, torch.Tensor]:
        found: dict[Any, torch.Tensor] = {COND: prediction(out[0], step)}
        if uncond:
            found[UNCOND] = prediction(out[1], step)
        return found

    def _weak(self, branch: Perturbation, batch: Batch, cond: Any, x: torch.Tensor, sigma: float,
              step: Step) -> torch.Tensor:
        """The prediction of a further branch, of the conditional rows alone."""
        lead = self.sites.found.get(self.sites.lead)  # none yet where a branch comes ahead of the first clean pass
        at = x if lead is None else self._moved_x(lead.states[branch], step, x, sigma)
        given = self.setting.further[branch.condition] if branch.condition else cond
        self.making, self.branch = "weak", branch
        try:
            denoised = batch([given], at)[0]
        finally:
            self.making = self.branch = None
        own = step if at is x else replace(step, x=at.float() * self.levels.scale(sigma))
        made = prediction(denoised, own)
        return made if lead is None else lead.states[branch].at_step(made)

    def _moved_x(self, state: State, step: Step, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """ComfyUI's x of a branch that may be evaluated elsewhere than at the step's."""
        if type(state).inputs is State.inputs:
            return x
        moved_x = state.inputs({X: step.x}, ()).get(X)  # as the network sees it
        return x if moved_x is None else (moved_x / self.levels.scale(sigma)).to(x.dtype)

    def _take_down(self, branches: Mapping[Any, torch.Tensor]) -> None:
        """Note how far the weak predictions are from the clean one; for every condition, as they are seen together."""
        weak = {branch: pred for branch, pred in branches.items() if branch not in (COND, UNCOND)}
        for site in self.sites.found.values():
            site.course.take_down(weak, branches[COND])
            for branch, pred in weak.items():
                if branch.condition is not None and not site.states[branch].proves:
                    site.states[branch].note((relative_distance(pred, branches[COND]) > SAME).any())
