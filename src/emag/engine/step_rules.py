"""The rules at work in one step, with their memory: from the branches to the prediction, every result asked to be finite."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..core import (
    COND,
    UNCOND,
    Branches,
    Perturbation,
    Rule,
    Sparing,
    Step,
    combine,
    evaluates_null,
    needed_branches,
    needs_null,
    reads_null,
    weak_before,
    with_null,
)
from ..errors import Unsupported
from .access import Evaluations, RuleAccess
from .finite import Finite


@dataclass(frozen=True)
class StepRules:
    """The rules at work in one step. states: the memory of each, which lasts as long as the run. host: what it gives those
    that look further; begun, evaluated: what the rules had kept as the step began, and the branches of the step."""

    step: Step
    rules: Sequence[Rule]
    states: Sequence[dict[str, Any]]
    finite: Finite
    host: Evaluations | None = None
    begun: Sequence[dict[str, Any]] = ()
    evaluated: Sequence[Any] = ()

    @property
    def place(self) -> str:
        """The step in words."""
        return f"step {self.step.index + 1} of {self.step.count}"

    def needed(self) -> tuple[Perturbation, ...]:
        """Further branches of the step, each once."""
        return needed_branches(self.rules, self.step, self.states)

    def evaluates_null(self) -> bool:
        """True where the unconditional rows are to be evaluated: UNCOND is needed, or a branch uses those rows."""
        return evaluates_null(self.rules, self.step, self.states)

    def check_input(self) -> None:
        """Ask whether x_t is finite."""
        self.finite.ask(f"{self.place}: x_t", "host", self.step.x)

    def check(self, branches: Branches) -> None:
        """Ask whether the branches are finite, the clean ones first."""
        names: dict[Any, str] = {COND: "the network's prediction", UNCOND: "the network's unconditional prediction"}
        for name in sorted(branches, key=lambda name: name not in names):
            what = names.get(name) or f"the prediction of the weak branch of {self._owner(name)}"
            self.finite.ask(f"{self.place}: {what}", "network" if name in names else "rule", branches[name])

    def seeing(self, host: Evaluations, branches: Branches) -> "StepRules":
        """The same for a step whose clean branches are evaluated, with what `host` gives rules that look further."""
        if not any(rule.looks_further for rule in self.rules):
            return self
        begun = copy.deepcopy(list(self.states))
        return replace(self, host=host, begun=begun, evaluated=tuple(branches))

    def with_null(self, branches: Branches) -> Branches:
        """The branches, UNCOND given or rewritten by the rules that do so, in order."""
        read = reads_null(self.rules, self.step)
        for at, (rule, state) in enumerate(zip(self.rules, self.states, strict=True)):
            # where nothing reads UNCOND, no pass is made for it
            if rule.rewrites_null and (read or not rule.looks_further):
                branches = with_null([rule], branches, self._step_of(at), [state])
                if UNCOND in branches:
                    self._ask(f"the unconditional prediction of {rule.name}", branches[UNCOND])
        return branches

    def result(self, branches: Branches) -> torch.Tensor:
        """The prediction that the rules make of the branches, [batch, ...] fp32."""
        pred = branches[COND]
        for at, (rule, state) in enumerate(zip(self.rules, self.states, strict=True)):
            # one rule at a time, so that the first one to give what is not finite is known by name
            new = combine([rule], pred, branches, self._step_of(at), [state])
            if new is not pred:
                self._ask(f"the result of {rule.name}", new)
            pred = new
        return pred

    def _step_of(self, at: int) -> Step:
        """The step as the rule number `at` sees it."""
        if self.host is None or not self.rules[at].looks_further:
            return self.step
        names = [name for name in (COND, UNCOND) if name in self.evaluated]
        weak = [branch for branch in weak_before(self.rules, at)
                if branch in self.evaluated and branch.acts(self.step.index, self.step.sigmas)]
        access = RuleAccess(self.host, self.step, self.rules[:at], self.rules, self.begun, names, weak,
                            Sparing.of(self.rules[at]))
        return replace(self.step, access=access)

    def check_cast(self, prediction: torch.Tensor, dtype: torch.dtype) -> None:
        """Ask whether the result still is finite in the dtype of the host."""
        # fp16 alone has a smaller range than fp32: what is finite there may overflow in the host's dtype
        if torch.finfo(dtype).max < torch.finfo(torch.bfloat16).max:
            self._ask(f"the result of the rules, in {str(dtype).removeprefix('torch.')},", prediction.to(dtype))

    def end(self) -> None:
        """The end of the step: what was asked is answered, now or as soon as the device has it (see `Finite.after_step`)."""
        self.finite.after_step()

    def alone(self, host: str) -> "StepRules":
        """The step in a run whose host has stopped evaluating unconditional rows: rules about those have nothing to do.

        Raises `Unsupported` for what cannot go on without them.
        """
        reading = next((rule for rule in self.rules if rule.kind == "combining" and rule.reads_null(self.step)), None)
        kept = [pair for pair in zip(self.rules, self.states, strict=True) if reading or pair[0].kind != "null"]
        now = replace(self, rules=[rule for rule, _ in kept], states=[state for _, state in kept])
        rows = next((rule for rule in now.rules for branch in rule.branches(self.step)
                     if branch.needs_uncond or branch.null), None)
        needy = reading if reading and needs_null(now.rules, self.step, now.states) else rows
        if needy is not None:
            raise Unsupported(f"{needy.name} needs the unconditional prediction at {self.place}, and {host} no longer "
                              "evaluates it: a callback has changed guidance_scale on the way. Leave the callback out, and "
                              f"give {needy.name} a schedule, e.g. CFG(Interval(4.0, 0.0, 0.5, 'progress'))")
        return now

    def _ask(self, what: str, tensor: torch.Tensor) -> None:
        self.finite.ask(f"{self.place}: {what}", "rule", tensor)

    def _owner(self, branch: Any) -> str:
        return next((rule.name for rule in self.rules if branch in rule.weak), "a rule")
