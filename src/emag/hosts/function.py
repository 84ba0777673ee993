"""A plain denoiser function under a guidance, as it runs; `guided.py` makes it."""

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ..core import COND, UNCOND, Perturbation, Rule, RunStart, Step, evaluates_null, needed_branches
from ..engine.finite import Finite
from ..engine.plan import Plan
from ..engine.step_rules import StepRules
from ..engine.trajectory import Trajectory
from ..errors import BadValue
from ..maths.energies import ordinary
from ..maths.streams import Streams
from ..maths.vectors import widened
from ..samplers.conditioned import alike
from ..samplers.path import Path
from .outside import Outside
from .sights import Elsewhere, Sights

Denoiser = Callable[[torch.Tensor, float, Any], torch.Tensor]
"""(x [batch, ...], time, condition) -> prediction shaped as x."""


class Function:
    """A guided denoiser: a `Model` for `emag.samplers`. evaluations: calls of the denoiser so far; beside: those for
    correctors and solvers, beside the run's own; again: those made once more in backward passes; latest:
    the branches of the latest step."""

    def __init__(self, denoiser: Denoiser, rules: tuple[Rule, ...], path: Path, trajectory: Trajectory,
                 conditions: dict[str, Any], time: Callable[[float, float], float], masks: dict[str, torch.Tensor],
                 grid: tuple[int, int, int] | None, network: Outside, sights: Sights):
        self.denoiser, self.rules, self.path, self.trajectory = denoiser, rules, path, trajectory
        self.conditions, self.time, self.masks, self.grid, self.network = conditions, time, masks, grid, network
        self.space, self.sights = trajectory.space, sights
        self.combines = any(rule.kind == "combining" for rule in rules)
        self.image: torch.Tensor | None = None
        self.wanted: tuple[str, ...] = ()
        self.evaluations = self.beside = self.again = 0
        self.latest: dict[Any, torch.Tensor] = {}
        self._streams: Streams | None = None
        self._level, self._fresh = 0, False
        self._memory: list[dict[str, Any]] = []
        self._finite = Finite()

    def start(self, x: torch.Tensor) -> None:
        """Begin a new run from x [batch, ...]: forget all state, seed each sample's random streams by its own bytes."""
        if self.image is not None and (self.image.shape[1:] != x.shape[1:] or len(self.image) not in (1, len(x))):
            raise BadValue(f"the image the run starts from has shape {tuple(self.image.shape)}, and x {tuple(x.shape)}")
        self._streams, self._memory, self._finite = Streams.of(x), [{} for _ in self.rules], Finite()
        self.network.start(self._streams)
        self._fresh = True

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, i: int) -> torch.Tensor:
        """The guided prediction for x [batch, ...] at level i of the path, in x's dtype.

        Raises `NotFinite` where a prediction is not finite, and at the last level `NoEffect` where a weak branch of the run
        changed nothing.
        """
        if not 0 <= i < len(self.path):
            raise BadValue(f"level {i} is not on the path: its steps start from levels 0 to {len(self.path) - 1}")
        if i == 0 or i < self._level or self._streams is None:
            self.start(x)
        self._level = i
        assert self._streams is not None
        self._streams.next_step()
        step = self._step(x, i)
        if self._fresh:
            self._fresh = False
            for rule in self.rules:
                rule.fits_run(RunStart(step, tuple(self.trajectory.places())))
        rules = StepRules(step, self.rules, self._memory, self._finite)
        rules.check_input()
        branches = self.network.step(step, partial(self._branches, x, step))
        rules.check(branches)
        rules = rules.seeing(Elsewhere(self.sights, self._elsewhere, self._weak_elsewhere), branches)
        self.latest = dict(rules.with_null(branches))
        prediction = rules.result(self.latest)
        rules.check_cast(prediction, x.dtype)
        prediction = prediction.to(x.dtype)
        rules.end()
        if i == len(self.path) - 1:
            self.check()
        return prediction

    def check(self) -> None:
        """Raise `NotFinite`, or `NoEffect` where a weak branch of the run changed nothing so far."""
        self._finite.finish()
        self.network.check()

    @property
    def plan(self) -> Plan | None:
        """What a run will evaluate inside the network; None where that is not known."""
        return self.network.plan

    @property
    def block_evaluations(self) -> int:
        """Blocks of the network evaluated in this run so far, per image."""
        return self.network.block_evaluations

    def want(self, names: Sequence[str]) -> None:
        """Evaluate these conditions at every step too, into `latest` under their names, until told otherwise.

        Raises `BadValue` for one that was not given.
        """
        absent = [name for name in names if name not in self.conditions]
        if absent:
            raise BadValue(f"the sampler reads the condition {absent[0]!r}, which was not given: give "
                           f"conditions={{{absent[0]!r}: ...}}")
        self.wanted = tuple(names)

    def asks(self, x: torch.Tensor, i: int) -> list[str]:
        """Names of the conditions that a call at level i evaluates at x, after `start`. Changes nothing."""
        step, memory = self._step(x, i), copy.deepcopy(self._memory)
        null = self._reads_null(step) and evaluates_null(self.rules, step, memory)
        further = [_asked(branch) for branch in needed_branches(self.rules, step, memory)]
        return list(dict.fromkeys([COND, *further, *self.wanted, *((UNCOND,) if null else ())]))

    def groups(self, count: int) -> list[int]:
        """A number for each of `count` samples: equal where all their conditions are."""
        return alike(self.conditions, count)

    def branches(self, x: torch.Tensor, i: int) -> dict[str, torch.Tensor]:
        """Clean predictions at level i: COND, and UNCOND where there is one. Beside the run: changes no state."""
        return self.branches_at(x, *self.path.at(i))

    def branch(self, x: torch.Tensor, i: int, name: str) -> torch.Tensor | None:
        """One of `branches`, without the others; None where there is none."""
        return self._beside(x, *self.path.at(i), [name] if name in self.conditions else []).get(name)

    def branches_at(self, x: torch.Tensor, alpha: float, sigma: float) -> dict[str, torch.Tensor]:
        """`branches` at a level that need not be on the path. With gradients where x asks for them."""
        return self._beside(x, alpha, sigma, [name for name in (COND, UNCOND) if name in self.conditions])

    def _beside(self, x: torch.Tensor, alpha: float, sigma: float, names: Sequence[str]) -> dict[str, torch.Tensor]:
        self.beside += len(names)
        with torch.set_grad_enabled(x.requires_grad):
            return {name: self._call(x, alpha, sigma, self.conditions[name]) for name in names}

    def seen(self, x0: torch.Tensor) -> torch.Tensor:
        """Clean samples [batch, ...] as scores see them: decoded, where there is a decoder."""
        return self.sights.decode(x0)

    def noise(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Standard normal noise shaped as `like` [batch, ...]; row i's depends on sample i, `name` and the step alone."""
        if self._streams is None:
            self.start(like)
        assert self._streams is not None
        return self._streams.normal(name, like).to(like.dtype)

    def _step(self, x: torch.Tensor, i: int) -> Step:
        assert self._streams is not None
        x = widened(x)
        step = self.trajectory.step(i, x, self._streams, self.grid, self.masks)
        return step if self.image is None else replace(step, image=widened(self.image))

    def _branches(self, x: torch.Tensor, step: Step) -> dict[Hashable, torch.Tensor]:
        """The predictions of one step by branch, the unconditional one last: what the clean one left is used before it."""
        wanted = needed_branches(self.rules, step, self._memory)
        null = self._reads_null(step) and evaluates_null(self.rules, step, self._memory)

        def further(branch: Perturbation, cond: torch.Tensor | None) -> torch.Tensor:
            return self.network.weak(partial(self._evaluate, x, step, _asked(branch)), step, branch, cond)

        found: dict[Hashable, torch.Tensor] = {branch: further(branch, None) for branch in wanted if branch.ahead}
        cond = found[COND] = self.network.clean(partial(self._evaluate, x, step, COND), step)
        found |= {branch: further(branch, cond) for branch in wanted if not branch.ahead}
        for name in dict.fromkeys((*self.wanted, UNCOND) if null else self.wanted):
            if name not in found:  # beside the run: what watches the clean pass does not see it
                found[name] = self.network.clean(partial(self._evaluate, x, step, name), step, null=True)
        return found

    def _reads_null(self, step: Step) -> bool:
        return UNCOND in self.conditions and (self.combines or any(rule.reads_null(step) for rule in self.rules))

    def _evaluate(self, x: torch.Tensor, step: Step, name: str) -> torch.Tensor:
        condition = ordinary(self.conditions[name]) if torch.is_grad_enabled() else self.conditions[name]
        changing = [rule for rule in self.rules if rule.kind == "condition"]
        if changing:
            given = {other: self.conditions[other] for rule in changing for other in rule.named}
            condition = _changed(changing, condition, replace(step, branch=UNCOND if name == UNCOND else COND, given=given))
        pred = self._call(x, step.alpha, step.sigma, condition)
        return widened(pred)

    def _elsewhere(self, x: torch.Tensor, step: Step, name: str, checkpointed: bool) -> torch.Tensor:
        """A clean prediction beside those of the step; differentiable in x, in x's dtype."""
        def made(x: torch.Tensor) -> torch.Tensor:
            return self.network.elsewhere(partial(self._evaluate, x, step, name), step, name == UNCOND)

        return self._kept(made, x, checkpointed)

    def _weak_elsewhere(self, x: torch.Tensor, step: Step, branch: Perturbation, cond: torch.Tensor,
                        checkpointed: bool) -> torch.Tensor:
        """The same for a weak branch that the step evaluates; `cond` is the clean prediction at x."""
        def made(x: torch.Tensor) -> torch.Tensor:
            return self.network.weak_elsewhere(partial(self._evaluate, x, step, _asked(branch)), step, branch, cond)

        return self._kept(made, x, checkpointed)

    def _kept(self, made: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, checkpointed: bool) -> torch.Tensor:
        """`made(x)`; where it is checkpointed, a backward pass makes it again."""
        if not (checkpointed and torch.is_grad_enabled() and x.requires_grad):
            return made(x)
        # the function as a whole: what is in it, nobody here knows
        found: torch.Tensor = checkpoint(made, x, use_reentrant=False,
                                         context_fn=lambda: (nullcontext(), self._once_more()))
        return found

    @contextmanager
    def _once_more(self) -> Iterator[None]:
        """What is evaluated inside is counted apart: backward passes evaluate it once more."""
        before = self.evaluations
        try:
            with self.network.once_more():
                yield
        finally:
            self.again += self.evaluations - before
            self.evaluations = before

    def _call(self, x: torch.Tensor, alpha: float, sigma: float, condition: Any) -> torch.Tensor:
        self.evaluations += 1
        return self.denoiser(x, self.time(alpha, sigma), condition)


def _asked(branch: Perturbation) -> str:
    """The name of the condition that a branch is evaluated under."""
    return branch.condition or (UNCOND if branch.null else COND)


def _changed(rules: Sequence[Rule], condition: Any, step: Step) -> Any:
    values = condition if isinstance(condition, dict) else {"condition": condition}
    for rule in rules:
        values = rule.condition(values, step)
    return values if isinstance(condition, dict) else values["condition"]
