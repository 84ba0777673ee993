"""The course of one run: its steps in order, the state of every branch, and what came of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..core import Perturbation, Rule, RunStart, State, Step, weak_branches
from ..errors import BadValue, EmagError, NoEffect, Unsupported
from ..maths.streams import Streams
from ..maths.vectors import relative_distance
from .arguments import Arguments
from .network import Network
from .plan import Plan, check_lone, check_spaces, plan, unfed
from .trajectory import Trajectory
from .view import Ahead

SAME = 5e-4  # relative distance below which two predictions may differ by rounding alone


class Course:
    """Where a run is. seen: steps begun; images: rows of one branch; effects: per step, how far weak predictions were."""

    def __init__(self, network: Network, rules: Sequence[Rule], view: Ahead, masks: Mapping[str, torch.Tensor]):
        self.network, self.rules, self.view, self.masks = network, rules, view, masks
        self.trajectory: Trajectory | None = None
        self.plan: Plan | None = None
        self.seen = self.images = 0
        self.states: dict[Perturbation, State] = {}
        self.effects: list[torch.Tensor | None] = []
        self.memory: list[dict[str, Any]] = [{} for _ in rules]

    @property
    def count(self) -> int:
        """Steps of the run; 0 before it began."""
        return len(self.trajectory.timesteps) * self.trajectory.parts if self.trajectory else 0

    def next(self, call: Arguments, rows: slice, waiting: bool, alone: bool = False) -> Step:
        """The step that a call begins; `rows` are its conditional ones. waiting: the step before is not finished; alone: the
        host has stopped evaluating unconditional rows."""
        x = call.network.latents(call.sample[rows])
        if self.trajectory is None:
            self._start(call, x)
        assert self.trajectory is not None
        total = self.images if alone else self.total
        if self.seen >= self.count or x.shape[0] != self.images or call.total != total or waiting:
            raise EmagError("the network was called out of turn: more evaluations, or other rows, than the run of its "
                            "pipeline has. Do not call it (or a pipeline that shares it) from inside a guided run; and "
                            "where a callback changes guidance_scale or the prompts on the way, leave it out and give a "
                            "rule a schedule, e.g. CFG(Interval(4.0, 0.0, 0.5, 'progress'))")
        at = self.seen % len(self.trajectory.timesteps)  # in the part of the answer that is being made
        if at == 0 < self.seen:
            self._begin_part()
        _check_time(call, self.trajectory.timesteps[at])
        # a solver of a higher order evaluates one timestep several times: `seen` counts evaluations, `index` timesteps
        index = self.trajectory.index[at]
        self.seen += 1
        self.streams.next_step()
        step = self.trajectory.step(index, x.float(), self.streams, self.grid, self.masks)
        for rule in self.rules if self.seen == 1 else ():
            rule.fits_run(RunStart(step, tuple(self.trajectory.places()), self.tokens, call.values))
        for state in self.states.values():
            state.reach(step)
        return step

    def _start(self, call: Arguments, x: torch.Tensor) -> None:
        """At the first evaluation: trajectory, plan and states."""
        for name, why in self.network.backbone.unserved:
            if call.values.get(name) is not None:
                raise Unsupported(f"{name} in a guided {self.network.backbone.name}: {why}")
        self.images, self.total, self.grid = x.shape[0], call.total, call.network.grid(call.values)
        # of two calls each has one row an image, of a call of all rows it has two or more
        self.begin(Streams.of(x), max(2, self.total // self.images))
        self.introduce(call.network.tokens(call.values) if self.states else ())

    def begin(self, streams: Streams, host_rows: int = 2) -> None:
        """Trajectory, plan and states of a run. host_rows: of an image, where unconditional ones are evaluated."""
        self.trajectory, self.streams = self.view.trajectory(), streams
        self.plan = plan(self.rules, self.network.depth, self.trajectory, self.view.uncond,
                         self.network.backbone.paired, host_rows)
        self._check_null()
        check_spaces(self.rules, self.trajectory)
        check_lone(self.rules, self.trajectory)
        sigmas = self.trajectory.sigmas
        self.states = {branch: branch.start(sigmas, streams) for branch in weak_branches(self.rules)}
        self._check_planned()

    def introduce(self, tokens: tuple[int, ...]) -> None:
        """Tell new states of the run, of each other and of the grid of image tokens."""
        self.tokens = tokens
        assert self.trajectory is not None
        # in three rounds, since what a state learns from another one has to be there by then
        for state in self.states.values():
            state.along(self.trajectory.schedule_length)
        for state in self.states.values():
            state.meet(self.states)
        for state in self.states.values():
            # where frames attend apart, a state sees the tokens of one
            state.place(tokens[-2:] if self.network.backbone.framed else tokens)

    def _check_null(self) -> None:
        """Raise `BadValue` for a rule that reads what nobody gives: known for sure once the noise levels are."""
        assert self.trajectory is not None
        reader = None if self.view.uncond else unfed(self.rules, self.trajectory)
        if reader is not None:
            raise BadValue(f"{reader} needs the unconditional prediction at some step of this run, and this call has "
                           "none: give the pipeline's guidance a scale above 1 where it has one")

    def _check_planned(self) -> None:
        """Raise `NoEffect` for a branch that no step of the run evaluates."""
        assert self.plan is not None
        planned = {branch for step in self.plan.steps for branch in step}
        # an error now, not images that took longer and look the same
        for branch in self.states.keys() - planned - self._idle():
            if not (branch.observes or branch.strong):
                raise NoEffect(_never_differed(branch, self.states[branch]))

    def change(self, network: Network) -> None:
        """Another network serves from the next step on: what branches saw inside the one before is forgotten."""
        self.network = network
        self._restart([branch for branch in self.states if branch.blocks or branch.around])

    def _begin_part(self) -> None:
        """Another part of the answer begins: what rules and branches remember is not about it. Random streams go on."""
        self.memory = [{} for _ in self.rules]
        self._restart(list(self.states))

    def _restart(self, branches: Sequence[Perturbation]) -> None:
        """New states in the place of some; picks and proof of effect are the run's, and go on."""
        for branch in branches:
            assert self.trajectory is not None
            old, new = self.states[branch], branch.start(self.trajectory.sigmas, self.streams)
            new.picks, new.differed = old.picks, old.differed
            self.states[branch] = new
        if self.states:
            self.introduce(self.tokens)

    def with_states(self, branches: Sequence[Perturbation]) -> list[tuple[Perturbation, State]]:
        """Branches with their states."""
        return [(branch, self.states[branch]) for branch in branches]

    def watching(self, observers: bool = False) -> list[tuple[Perturbation, State]]:
        """Branches that watch the clean pass of this step; or only those that do nothing else."""
        return [(b, s) for b, s in self.states.items() if s.watches and (b.observes or not observers)]

    def looking(self) -> list[tuple[Perturbation, State]]:
        """Branches that see the clean pass of this step for the first time; those in the pass themselves need no look."""
        return [] if self.seen > 1 else [(b, s) for b, s in self.states.items() if not (b.strong or b.observes)]

    def look(self, step: Step) -> None:
        """Put what the observers saw into the step, and what those in every pass show of themselves."""
        step.seen.update((b, state.seen) for b, state in self.states.items() if b.observes or b.strong)

    def take_down(self, weak: Mapping[Any, torch.Tensor], cond: torch.Tensor) -> None:
        """Note how far the weak predictions of this step are from the clean one."""
        distances = {branch: relative_distance(prediction, cond) for branch, prediction in weak.items()}
        self.effects.append(torch.stack(list(distances.values())).amax(0) if weak else None)
        for branch, distance in distances.items():
            state = self.states[branch]
            if not state.proves and branch.condition is None:
                state.note((distance > SAME).any())

    def check_effect(self) -> None:
        """After a run that went to its end: raise `NoEffect` where a branch changed nothing."""
        if self.trajectory is not None and self.seen >= self.count:
            self.prove_effect()

    def prove_effect(self) -> None:
        """Raise `NoEffect` where a branch of the run changed nothing so far."""
        idle = self._idle()
        for branch, state in self.states.items():
            if branch not in idle and not branch.observes and (state.differed is None or not bool(state.differed)):
                raise NoEffect(_never_differed(branch, state))

    def _idle(self) -> set[Perturbation]:
        """Branches of rules on UNCOND that no step needs, where it is not read at all or the rule has others."""
        assert self.plan is not None
        planned = {branch for step in self.plan.steps for branch in step}
        rules = [rule for rule in self.rules if rule.kind == "null"]
        spare = [rule for rule in rules if not self.plan.reads_null or planned.intersection(rule.weak)]
        return {branch for rule in spare for branch in rule.weak} - planned


def _never_differed(branch: Perturbation, state: State) -> str:
    if state.differed is None:
        return ("a branch was never evaluated: its schedule or window holds no step of this run. Use more steps, or another "
                "interval")
    if branch.condition is not None and not branch.blocks:
        return f"the condition {branch.condition!r} is the one the images are made with: name another"
    if branch.model is not None:
        return f"the model {branch.model!r} predicts what the pipeline's own does: give a weaker one"
    blocks = sorted({*branch.blocks, *branch.changes, *branch.around})
    where = f"on blocks {blocks} " if blocks else ""
    return (f"the {'branch' if branch.strong else 'weak branch'} {where}never differed from the clean one: other layers, a "
            "stronger setting or a longer window may help")


def _check_time(call: Arguments, expected: float) -> None:
    """Where the timestep is on the host already, hold it against the scheduler's."""
    backbone = call.network.backbone
    given = call.values.get(backbone.timestep)
    if isinstance(given, torch.Tensor) and given.device.type == "cpu":
        told = given.flatten().double() * backbone.time_scale + backbone.time_offset
        found = float(told[(told - expected).abs().argmin()])  # tokens of a given picture have a time of their own
        if abs(found - expected) > 0.01 * max(1.0, abs(expected)):
            raise Unsupported(f"the network was called at timestep {found:g} where the scheduler is at {expected:g}: the "
                              "run's steps are not the scheduler's, or the network was called out of turn")
