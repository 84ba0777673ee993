"""The algebra: a guidance is an ordered list of rules, frozen values that rewrite a running prediction.

A rule may change the condition before the clean pass (`condition`), ask for further branches (`branches`), give or rewrite
the unconditional branch (`new_null`) and rewrite the running prediction (`apply`). It knows nothing of images or networks.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch

from .finite import FiniteFields
from .perturbations.base import Perturbation
from .predictions import convert, difference_scale
from .schedules.base import Schedule
from .streams import Streams

COND, UNCOND = "cond", "uncond"

Branches = Mapping[Hashable, torch.Tensor]
"""Predictions of one step by branch: COND, UNCOND (where there is one) and every further branch asked for."""

Kind = Literal["condition", "attention", "weak", "null", "combining", "after"]
"""What a rule does: changes the condition; works inside the network's attention; pushes away from a weak branch; gives
or rewrites the unconditional branch; joins COND and UNCOND, and so replaces the host's CFG; works on what they give."""


@dataclass(frozen=True)
class Step:
    """Where a run is: what rules may know of one denoising step.

    `index` counts distinct timesteps from 0 (noisiest) to `count - 1`, `alphas` and `sigmas` are theirs, and `end` is the
    (alpha, sigma) the sampler ends at; x = alpha x0 + sigma epsilon. `time` is the timestep as a fraction of the training
    schedule (1 is noise). `x` is x_t of the conditional rows in fp32, [batch, ...]; `space` that of the predictions.
    `grid`: ([frames,] rows, columns, patch) where x is a sequence of patches. `masks`: named masks the host was given.
    `seen`: what the observers asked for saw. `fresh`: another network has just taken over.
    """

    index: int
    sigmas: tuple[float, ...]
    alphas: tuple[float, ...]
    time: float
    space: str
    x: torch.Tensor = field(repr=False)
    streams: Streams = field(repr=False)
    branch: str = COND
    end: tuple[float, float] = (1.0, 0.0)
    grid: tuple[int, ...] | None = None
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    seen: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    fresh: bool = False

    @property
    def count(self) -> int:
        return len(self.sigmas)

    @property
    def alpha(self) -> float:
        return self.alphas[self.index]

    @property
    def sigma(self) -> float:
        return self.sigmas[self.index]

    @property
    def ratio(self) -> float:
        """sigma / alpha: the noise level of EDM."""
        return self.sigma / self.alpha if self.alpha else float("inf")

    @property
    def next(self) -> tuple[float, float]:
        """(alpha, sigma) that the sampler goes to."""
        after = self.index + 1
        return self.end if after >= self.count else (self.alphas[after], self.sigmas[after])

    @property
    def progress(self) -> float:
        """0 at the first step, 1 at the last (0 where there is only one)."""
        return self.index / max(1, self.count - 1)


@dataclass(frozen=True)
class Scene:
    """What is known of a run before its network evaluates anything.

    first: its first step. steps: all of them, without x_t. tokens: image tokens along each dimension of the latents,
    ([frames,] rows, columns), and arguments: those of the network's first call; neither where it is not known.
    """

    first: Step
    steps: tuple[Step, ...]
    tokens: tuple[int, ...] = ()
    arguments: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Rule(FiniteFields):
    """Base of all rules. Subclasses are frozen dataclasses whose fields are plain data (they become recipes)."""

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    equation: ClassVar[str] = ""
    kind: ClassVar[Kind] = "combining"
    cost: ClassVar[str] = "none"  # evaluations beyond the conditional and the unconditional one
    required: ClassVar[Mapping[str, str]] = {}  # fields without which it cannot work, each with an example
    of_null: ClassVar[bool] = False  # of a condition rule: it changes the unconditional condition, and nothing where none is
    space: ClassVar[str | None] = None  # the space the rule works in; None where any affine space gives the same

    @property
    def neutral(self) -> bool:
        """True where the parameters switch the rule off; it is then left out of the run altogether."""
        return False

    def automatic_layers(self, depth: int) -> tuple[int, ...]:
        """Blocks of a network of `depth` for a rule with `layers`, where neither the user nor a default names any."""
        return (depth // 2,)

    def fits_network(self, network: Any) -> None:
        """Raise `Unsupported` or `BadValue` where the rule, its defaults filled in, cannot work on a `Network`.

        Asked as soon as a pipeline is guided. What a rule reads from files, it reads here for the first time.
        """
        for field_ in fields(self):
            if isinstance(value := getattr(self, field_.name), Schedule):
                value.check()

    def fits_run(self, scene: Scene) -> None:
        """Raise `Unsupported` or `BadValue` where the rule cannot work in a run, before anything is evaluated."""

    def condition(self, cond: dict[str, torch.Tensor], step: Step) -> dict[str, torch.Tensor]:
        """New values of the condition tensors, each [batch, ...], the same for all branches of the step."""
        return cond

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        """Further branches the rule may ask for."""
        return ()

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        """Further branches needed at this step."""
        return tuple(branch for branch in self.weak if branch.runs(step.index, step.sigmas))

    def spares_weak(self, step: Step, state: dict[str, Any]) -> bool:
        """True where `apply` goes without `branches(step)`, which are then not evaluated.

        Asked once for each step that has some, before it, in a plan (with a state of its own) as in a run.
        """
        return False

    def unread(self, step: Step) -> tuple[Perturbation, ...]:
        """Of a "null" rule: further branches needed at a step where nothing reads UNCOND."""
        return ()

    def reads_null(self, step: Step) -> bool:
        """True where `apply` reads UNCOND at this step, or its schedule does. Asked before the step is evaluated."""
        scale = getattr(self, "scale", None)
        return self.kind == "combining" or (isinstance(scale, Schedule) and scale.measures and scale.known(step) is None)

    def spares_null(self, step: Step, state: dict[str, Any]) -> bool:
        """True where `new_null` gives UNCOND at this step without its evaluation, which is then not made.

        Asked once for each step that reads UNCOND, before it, in a plan (with a state of its own) as in a run.
        """
        return False

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        """New unconditional prediction, in `space`, or None to leave it. UNCOND is not in `branches` where it was spared."""
        return None

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        """New running prediction, [batch, ...] fp32, in `space`. `state` is this rule's own, and dies with the run."""
        return pred


States = Sequence[dict[str, Any]]


def reads_null(rules: Sequence[Rule], step: Step) -> bool:
    """True where UNCOND plays a part at `step`: a rule reads it, or the host does, where no rule combines."""
    return all(rule.kind != "combining" for rule in rules) or any(rule.reads_null(step) for rule in rules)


def needs_null(rules: Sequence[Rule], step: Step, states: States) -> bool:
    """True where UNCOND must be evaluated at `step`: it is read, and no rule gives it."""
    pairs = zip(rules, states, strict=True)
    return reads_null(rules, step) and not any(rule.spares_null(step, state) for rule, state in pairs)


def with_null(rules: Sequence[Rule], branches: Branches, step: Step, states: States) -> Branches:
    """The branches of a step, UNCOND given or rewritten by the rules that do so, in order."""
    for rule, state in zip(rules, states, strict=True):
        if rule.kind == "null":
            branches = _rewritten(rule, branches, step, state)
    return branches


def combine(rules: Sequence[Rule], pred: torch.Tensor, branches: Branches, step: Step, states: States) -> torch.Tensor:
    """Apply `rules` in order to `pred`, in fp32. A rule that declares a space sees everything in that space.

    The step a rule makes is carried back as a difference, so a rule that changes nothing gives `pred` bit for bit.
    """
    for rule, state in zip(rules, states, strict=True):
        pred = _in_space(rule, pred, branches, step, partial(_applied, rule, state))
    return pred


def _applied(rule: Rule, state: dict[str, Any], pred: torch.Tensor, branches: Branches, step: Step) -> torch.Tensor:
    return rule.apply(pred, branches, step, state)


Change = Callable[[torch.Tensor, Branches, Step], torch.Tensor]


def _rewritten(rule: Rule, branches: Branches, step: Step, state: dict[str, Any]) -> Branches:
    if UNCOND not in branches:
        there = _converted(branches, step, rule.space)
        new = rule.new_null(there, replace(step, space=rule.space or step.space), state)
        return branches if new is None else {**branches, UNCOND: _back(new, step, rule.space)}

    def change(null: torch.Tensor, there: Branches, at: Step) -> torch.Tensor:
        new = rule.new_null(there, at, state)
        return null if new is None else new

    return {**branches, UNCOND: _in_space(rule, branches[UNCOND], branches, step, change)}


def _in_space(rule: Rule, pred: torch.Tensor, branches: Branches, step: Step, change: Change) -> torch.Tensor:
    """`change` made in the rule's space, and carried back as a difference."""
    space = rule.space
    if space in (None, step.space):
        return change(pred, branches, step)
    assert space is not None
    here = convert(pred, step.x, step.alpha, step.sigma, step.space, space)
    moved = change(here, _converted(branches, step, space), replace(step, space=space)) - here
    return pred + moved * difference_scale(step.alpha, step.sigma, space, step.space)


def _converted(branches: Branches, step: Step, space: str | None) -> Branches:
    if space in (None, step.space):
        return branches
    return {name: convert(p, step.x, step.alpha, step.sigma, step.space, str(space)) for name, p in branches.items()}


def _back(pred: torch.Tensor, step: Step, space: str | None) -> torch.Tensor:
    return convert(pred, step.x, step.alpha, step.sigma, space or step.space, step.space)
