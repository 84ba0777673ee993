"""What a rule that looks further may ask in a step: clean samples elsewhere, images of them, scores by name."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from ..core import (
    COND,
    PLENTY,
    UNCOND,
    Branches,
    EstimateOf,
    Part,
    Perturbation,
    Rows,
    Rule,
    Score,
    Sparing,
    State,
    States,
    Step,
    combine,
    with_null,
)
from ..errors import Unsupported
from ..maths.predictions import to_x0
from .beside import Beside
from .calls import NetworkCall, StepCalls
from .conditions import conditioned, gathered
from .passes import Passes
from .view import FurtherSight


class Evaluations(FurtherSight, Protocol):
    """The same, and the clean predictions of the step at another x."""

    def branches(self, x: torch.Tensor, names: Sequence[str], at: Step, checkpoint: bool = False) -> Branches:
        """Clean predictions at x [batch, ...] of some of "cond" and "uncond", in the step's space; differentiable in x.

        at: the step of the run, or one after it, whose time the network is told. checkpoint: a backward pass evaluates them
        again.
        """
        ...

    def under(self, x: torch.Tensor, names: Sequence[str], at: Step, checkpoint: bool = False) -> torch.Tensor:
        """The prediction at x [batch, ...] of which row r is under the condition names[r], in the step's space."""
        ...

    def weak(self, x: torch.Tensor, branch: Perturbation, cond: torch.Tensor, at: Step,
             checkpoint: bool = False) -> torch.Tensor:
        """The prediction at x [batch, ...] of a weak branch that the step evaluates, `cond` being the clean one there;
        differentiable in both.

        What the branch has averaged or picked is that of the step: a constant.
        """
        ...


@dataclass(frozen=True)
class RuleAccess:
    """`Access` for one rule of a step. before: the rules before it; states: what all rules kept as the step began; names:
    the clean branches that the step evaluates; weak: of its weak ones, those that the guided estimate is made of; sparing:
    what the rule says of memory."""

    host: Evaluations
    step: Step
    before: Sequence[Rule]
    rules: Sequence[Rule]
    states: States
    names: Sequence[str]
    weak: Sequence[Perturbation] = ()
    sparing: Sparing = PLENTY

    def estimate(self, x: torch.Tensor, of: EstimateOf, ahead: int = 0) -> torch.Tensor:
        """The clean sample at x. "guided": that of the rules before, made from what they had kept as the step began."""
        at = self.step.following(x, ahead) if ahead else replace(self.step, x=x)
        if of != "guided" and of not in self.names:
            raise Unsupported(f"of={of} reads a prediction that this step does not evaluate")
        predicted = self._guided(at) if of == "guided" else self._branches(x, (of,), at)[of]
        return to_x0(predicted, x, at.alpha, at.sigma, at.space)

    def _guided(self, at: Step) -> torch.Tensor:
        states = copy.deepcopy(list(self.states))
        clean = self._branches(at.x, self.names, at)
        weak: Branches = {one: self.host.weak(at.x, one, clean[COND], at, self.sparing.checkpoint) for one in self.weak}
        # a rule that gives UNCOND may look further itself: there, not at the step's own x
        at = replace(at, access=replace(self, step=at))
        branches = with_null(self.rules, {**clean, **weak}, at, states)
        return combine(self.before, branches[COND], branches, at, states[:len(self.before)])

    def _branches(self, x: torch.Tensor, names: Sequence[str], at: Step) -> Branches:
        return self.host.branches(x, names, at, self.sparing.checkpoint)

    def under(self, names: Sequence[str]) -> torch.Tensor:
        """The clean sample at x_t, row r under the condition names[r]."""
        step = self.step
        predicted = self.host.under(step.x, names, step, self.sparing.checkpoint)
        return to_x0(predicted, step.x, step.alpha, step.sigma, step.space)

    def decode(self, x0: torch.Tensor, part: Part | None = None) -> torch.Tensor:
        return self.host.decode(x0, self.step, part, self.sparing)

    def score(self, name: str) -> Score:
        return self.host.score(name)


@dataclass(frozen=True)
class NetworkEvaluations:
    """Predictions elsewhere by passes of a run through its network. calls: the clean ones of the step, by branch; all: those
    that weak passes are made from, the host's own with the conditional rows among them; states: of the run's branches."""

    step: Step
    passes: Passes
    calls: Mapping[str, NetworkCall]
    all: StepCalls
    states: Mapping[Perturbation, State]
    sight: FurtherSight

    def branches(self, x: torch.Tensor, names: Sequence[str], at: Step, checkpoint: bool = False) -> Branches:
        return {name: self._branch(x, name, at, checkpoint) for name in names}

    def _branch(self, x: torch.Tensor, name: str, at: Step, checkpoint: bool) -> torch.Tensor:
        call = self.calls[name]
        part = call.arguments.rows(call.rows.cond if name == COND else call.rows.uncond or slice(None))
        rows = Rows.all_uncond(part.total) if name == UNCOND else Rows.all_cond(part.total)
        return Beside(self.passes, checkpoint).clean(NetworkCall(call.forward, part, rows).at(x, self._later(at)))

    def _later(self, at: Step) -> float:
        """By how much of the scheduler's timestep a step is later than this one."""
        return (at.time - self.step.time) * at.clock

    def weak(self, x: torch.Tensor, branch: Perturbation, cond: torch.Tensor, at: Step,
             checkpoint: bool = False) -> torch.Tensor:
        state = self.states[branch].elsewhere(at)
        state.predicted(at, cond)
        return state.at_step(Beside(self.passes, checkpoint).weak(self.all.at(x), branch, state))

    def under(self, x: torch.Tensor, names: Sequence[str], at: Step, checkpoint: bool = False) -> torch.Tensor:
        call = self.all.host.conditional()  # the condition rules have not been at it yet
        if call.rows.total != len(names):
            raise Unsupported(f"{call.arguments.network.backbone.name} has {call.rows.total} rows for {len(names)} images, "
                              "and which condition each has is not known: leave out the rule that asks for one each")
        given = gathered([self.passes.extras.given(name) for name in names], names)
        moved = self.passes.conditions.on(conditioned(call.arguments, given), call.rows)
        return Beside(self.passes, checkpoint).clean(replace(call, arguments=moved).at(x, self._later(at)))

    def decode(self, x0: torch.Tensor, step: Step, part: Part | None = None, sparing: Sparing = PLENTY) -> torch.Tensor:
        return self.sight.decode(x0, step, part, sparing)

    def score(self, name: str) -> Any:
        return self.sight.score(name)
