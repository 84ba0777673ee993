"""The network inside a denoiser function: weak branches of `guided` that look into it.

Each branch is one call of the function, whose one call of the network is made as the branch's pass: whole, or resumed at
the first block that differs. So all that the function does around its network goes for every branch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..core import Perturbation, Rows, Rule, State, Step, weak_branches
from ..engine.arguments import Arguments
from ..engine.beside import Beside
from ..engine.blocks import blocks_of
from ..engine.calls import Forward, NetworkCall, StepCalls
from ..engine.conditions import Conditions
from ..engine.course import SAME, Course
from ..engine.lock import hold
from ..engine.passes import Passes
from ..engine.plan import departs, plan
from ..engine.reading import read_network, unwrapped
from ..engine.trajectory import Trajectory
from ..engine.undo import Undo, patch, undone
from ..errors import BadValue, Unsupported
from ..families import Backbone
from ..maths.streams import Streams
from ..maths.vectors import relative_distance
from .checks import check_rules
from .function_checks import check_inside
from .hooks import check_hooks
from .outside import Evaluate, Made, Outside

_Make = Callable[[NetworkCall], None]


class InsideNetwork(Outside):
    """A denoiser function whose network is known. block_evaluations: blocks evaluated in this run so far, per image.

    entry: what describes a class that the table does not have; it is held against the network in the first step.
    """

    def __init__(self, module: torch.nn.Module, entry: Backbone | None, rules: Sequence[Rule], trajectory: Trajectory,
                 grid: tuple[int, ...] | None):
        self.module, self.entry, self.rules, self._trajectory, self.grid = module, entry, rules, trajectory, grid
        self.uncond = any(rule.kind == "combining" for rule in rules)
        self.further = weak_branches(rules)
        self.network = read_network(module, entry)
        check_inside(rules, self.network)
        check_rules(rules, [self.network])
        self.plan = plan(rules, self.network.depth, trajectory, self.uncond)
        self.blocks = blocks_of(self.network, self.further)
        self._unproven, self._x = entry is not None, torch.empty(0)
        self._fresh, self._references = False, 0  # no pass of this step was made yet; tokens of reference images

    @property
    def block_evaluations(self) -> int:  # type: ignore[override]
        return self.passes.evaluations

    def trajectory(self) -> Trajectory:
        """The levels of the path."""
        return self._trajectory

    def given(self, name: str) -> dict[str, Any]:
        """Nothing: a further condition comes in by the function's own argument."""
        return {}

    def model(self, name: str) -> Forward:
        """Refused before."""
        raise Unsupported(f"a function has no model {name!r} beside its own network")

    def start(self, streams: Streams) -> None:
        self.network = read_network(self.module, self.entry)
        if self.further:
            check_hooks(self.network, self.further)
        self.blocks = blocks_of(self.network, self.further, self.blocks)
        self.course = Course(self.network, self.rules, self, {})
        self.course.begin(streams)
        self._looked = False
        self.passes = Passes(self.blocks, Conditions(()), self)
        self.passes.strong = self.course.with_states([branch for branch in self.further if branch.strong])

    def step(self, step: Step, evaluate: Callable[[], Made]) -> Made:
        """Taps are in the network around the evaluations of one step, and not after it."""
        self._fresh, self._x = True, step.x
        return self._tapped(evaluate)

    def elsewhere(self, evaluate: Evaluate, step: Step, null: bool) -> torch.Tensor:
        def make(call: NetworkCall) -> None:
            rows = Rows.all_uncond(call.rows.total) if null else call.rows
            Beside(self.passes).clean(replace(call, rows=rows))

        return self._tapped(lambda: self._through(evaluate, step, make))

    def weak_elsewhere(self, evaluate: Evaluate, step: Step, branch: Perturbation, cond: torch.Tensor) -> torch.Tensor:
        state = self.course.states[branch].elsewhere(step)
        state.predicted(step, cond)

        def make(call: NetworkCall) -> None:
            Beside(self.passes).weak(_either(call), branch, state)

        return state.at_step(self._tapped(lambda: self._through(evaluate, step, make)))

    @contextmanager
    def once_more(self) -> Iterator[None]:
        before = self.passes.evaluations, self.passes.recorded
        try:
            yield
        finally:
            self.passes.again += self.passes.evaluations - before[0]
            self.passes.evaluations, self.passes.recorded = before

    def _tapped(self, evaluate: Callable[[], Made]) -> Made:
        def tapped(undo: Undo) -> Made:
            hold(unwrapped(self.module), "emag.guided", undo)
            undo.callback(self.blocks.clear)
            if departs(self.rules):
                self.passes.watch(self.network, undo)
            self.blocks.install(undo)
            self.passes.install(self.network, self.further, undo)
            return evaluate()

        return undone(tapped)

    def clean(self, evaluate: Evaluate, step: Step, null: bool = False) -> torch.Tensor:
        def make(call: NetworkCall) -> None:
            if null:
                call = replace(call, rows=Rows.all_uncond(call.rows.total))
            lookers = [] if null or self._looked or self._unproven else list(self.course.states.items())
            self._looked |= not null
            answer = self.passes.clean(call, self.course.watching(observers=null), lookers)
            if self._unproven:
                self._prove_entry(call, answer.sample)

        prediction = self._through(evaluate, step, make)
        self.course.look(step)
        return prediction

    def weak(self, evaluate: Evaluate, step: Step, branch: Perturbation, cond: torch.Tensor | None) -> torch.Tensor:
        state = self.course.states[branch]
        if cond is not None:
            state.predicted(step, cond)

        def make(call: NetworkCall) -> None:
            self._check_x(call.arguments, state)
            self.passes.weak(_either(call), [(branch, state)])

        prediction = state.at_step(self._through(evaluate, step, make))
        if cond is not None:
            self.course.take_down({branch: prediction}, cond)
            if branch.condition is not None and not state.proves:
                state.note((relative_distance(prediction, cond) > SAME).any())
        return prediction

    def check(self) -> None:
        self.course.prove_effect()

    def _through(self, evaluate: Evaluate, step: Step, make: _Make) -> torch.Tensor:
        """What `evaluate` gives, its one call of the network made by `make`, of which the first answer counts."""
        name = "forward" if self.module._compiled_call_impl is None else "_compiled_call_impl"
        original, answers = getattr(self.module, name), list[Any]()

        def forward(*args: Any, **kwargs: Any) -> Any:
            if answers:
                raise Unsupported(f"the denoiser calls its {self.network.backbone.name} more than once: let it evaluate one "
                                  "condition at one x, and leave combining and solving to rules and to your loop")

            def keeping(*args: Any, **kwargs: Any) -> Any:
                answers.append(original(*args, **kwargs))
                return answers[-1]

            met = self._met(Arguments.bind(self.network, args, kwargs), step)
            make(NetworkCall(keeping, met, Rows.all_cond(met.total)))
            return answers[0]

        def patched(undo: Undo) -> torch.Tensor:
            patch(undo, self.module, name, forward)
            return evaluate()

        prediction = undone(patched)
        if not answers:
            raise Unsupported(f"the denoiser did not call the {self.network.backbone.name} named as its backbone")
        return prediction

    def _met(self, call: Arguments, step: Step) -> Arguments:
        """A call of the network, its rows checked; what the first of a run and of a step settle."""
        if call.total != len(self._x):
            raise Unsupported(f"the denoiser called its network with {call.total} rows for a batch of {len(self._x)}: let "
                              "it evaluate one condition, and leave combining to a rule, e.g. CFG(4.0)")
        if self.course.images not in (0, call.total):
            raise BadValue(f"the batch had {self.course.images} rows at the start of this run, and now {call.total}")
        if not self.course.images:
            self._references = self.network.references_in(call.values)
            self.course.images = self.passes.images = call.total
            tokens = self.grid[:-1] if self.grid else self.network.tokens(call.values) if self.further else ()
            self.course.introduce(tokens)
        for state in self.course.states.values() if self._fresh else ():
            state.reach(step)
        self._fresh = False
        return replace(call, network=replace(self.network, references=self._references))

    def _check_x(self, call: Arguments, state: State) -> None:
        """A branch evaluated at another x_t needs a network that is given x_t itself."""
        if type(state).at_step is not State.at_step:
            x = self.network.latents(call.sample)
            if x.shape != self._x.shape or not torch.allclose(x.float(), self._x.float(), rtol=1e-2):
                raise Unsupported("a weak branch at another x_t needs a network that gets x_t as it is, and this denoiser "
                                  "scales or packs it")

    def _prove_entry(self, call: NetworkCall, clean: torch.Tensor) -> None:
        """A pass resumed at a block, with nothing changed, gives the clean answer, or the entry is wrong."""
        for block in sorted(self.blocks.wanted.resume):
            again = self._unchanged(call, block)
            if again is None or bool((relative_distance(again.float(), clean.float()) > SAME).any()):
                raise Unsupported(f"the entry of {self.network.backbone.name} does not fit: resumed at block {block}, with "
                                  "nothing changed, it does not give its answer. See the streams and returns of its stacks, "
                                  "and skips, where later blocks read what earlier ones gave")
        self._unproven = False

    def _unchanged(self, call: NetworkCall, block: int) -> torch.Tensor | None:
        """The answer resumed at `block`; None where the network cannot go on with what it is handed."""
        try:
            return self.passes.unchanged(call, block).sample
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError):
            return None


def _either(call: NetworkCall) -> StepCalls:
    """A weak pass is made from the function's own call, whichever condition it has asked for."""
    return StepCalls(replace(call, rows=replace(call.rows, uncond=call.rows.cond)), call)
