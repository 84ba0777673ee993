"""What a branch keeps in one run: its state, which watches clean passes and makes weak ones differ."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..maths.attention import Attention
from .step import Step

Sdpa = Callable[[torch.Tensor], torch.Tensor]
"""The live attention for given queries."""

Tokens = dict[str, torch.Tensor]
"""The streams of a block by name, "hidden_states" first: what it takes and what it returns."""


@dataclass(frozen=True)
class Rows:
    """Batch rows of one network call: the conditional ones, and the unconditional ones where they are in it.

    between: rows of a host that weighs a picture apart from the text: those with the picture and without the text.
    """

    cond: slice
    uncond: slice | None
    total: int
    between: slice | None = None

    @classmethod
    def all_cond(cls, total: int) -> "Rows":
        """A call of conditional rows alone."""
        return cls(slice(0, total), None, total)

    @classmethod
    def all_uncond(cls, total: int) -> "Rows":
        """A call of unconditional rows alone."""
        return cls(slice(0, 0), slice(0, total), total)


class State:
    """A branch's state in one run; by default it watches nothing and perturbs nothing.

    differed: on the device, whether any replacement differed from what it replaced; None where none was made.
    picks: per evaluation the picked block of each sample as a position in `blocks`, or None. grid: image tokens along
    each dimension of the latents, ([frames,] rows, columns); known from before the first step.
    """

    now: Step | None = None  # the step under way
    differed: torch.Tensor | None = None
    grid: tuple[int, ...] = ()
    proves: bool = False  # True where it notes by itself whether it changed anything; else the predictions are compared
    picks: list[torch.Tensor | None]

    def __init__(self) -> None:
        self.picks = []

    def place(self, grid: tuple[int, ...]) -> None:
        """The grid of this run's image tokens, told once, before the first step."""
        self.grid = grid

    def along(self, length: int) -> None:
        """Distinct timesteps of the run's schedule, those that a late start leaves out too; told before the first step."""

    def grid_of(self, tokens: int) -> tuple[int, ...]:
        """The grid of a block of `tokens` image tokens: this run's, or that halved (rounded up) as often as fits."""
        found = self.grid
        # U-Nets and hierarchical transformers halve both sides from stage to stage; frames stay
        while math.prod(found) > tokens and max(found[-2:]) > 1:
            found = (*found[:-2], *(-(-side // 2) for side in found[-2:]))
        return found if math.prod(found) == tokens else self.grid

    def reach(self, step: Step) -> None:
        """Start of a step."""
        self.now = step
        self.begin(step.index)

    def begin(self, index: int) -> None:
        """Start of the step `index`."""
        self.picks.append(None)

    @property
    def watches(self) -> bool:
        """True where the clean pass of this step is to be shown to `watch`."""
        return False

    def watch(self, block: int, call: Attention, rows: Rows) -> None:
        """See the live attention of one of `blocks` on the clean pass."""

    def look(self, block: int, call: Attention) -> None:
        """See the live attention of one of `blocks` once, on the first clean pass of a run. Raise here what `perturb` could
        not do with such a call, at whatever step it is asked."""

    def look_output(self, value: torch.Tensor, rows: int) -> None:
        """The same for the output of a submodule that `modules` names, in a pass of `rows` rows."""

    def look_early(self, prediction: torch.Tensor, rows: Rows) -> None:
        """See what the network's intermediate head predicts in a clean pass, [rows, ...] fp32, for one that `sees_early`."""

    def predicted(self, step: Step, cond: torch.Tensor) -> None:
        """See the clean conditional prediction of a step that evaluates this branch, before the weak passes."""

    def meet(self, states: Mapping[Any, "State"]) -> None:
        """At the start of a run: the states of all its branches, by perturbation."""

    def choose(self) -> None:
        """Last moment before the weak pass."""

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor:
        """Attention output of one of `blocks` in the weak pass."""
        return sdpa(call.q)

    def change(self, block: int, streams: Tokens, run: Callable[[Tokens], Tokens]) -> Tokens:
        """What one of `changes` returns in the weak pass; `run` is the block itself."""
        return run(streams)

    def strengthen(self, block: int, call: Attention, sdpa: Sdpa, rows: Rows) -> torch.Tensor:
        """Attention output of one of `blocks` in every pass, for a branch that is strong. `rows`: of this pass."""
        return sdpa(call.q)

    def enter(self, block: int, streams: Tokens, rows: Rows) -> Tokens:
        """What enters one of `changes` in every pass, for a branch that is strong. `rows`: of this pass."""
        return streams

    def around(self, block: int, tokens: torch.Tensor, run: Callable[[torch.Tensor], Any], rows: Rows) -> Any:
        """What the attention module of one of `around` returns in every pass, for a branch that is strong.

        tokens: what it is called with, [rows, tokens, channels]; run: the module itself, for as many rows of such tokens. It
        returns a tensor or several, rows first. rows: of this pass.
        """
        return run(tokens)

    def output(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """New output, in the weak pass, of a submodule that `modules` names."""
        return value

    def inputs(self, values: dict[str, Any], condition: tuple[str, ...]) -> dict[str, Any]:
        """Network arguments to change in the weak pass, of `values`; `condition` names those that hold the condition.

        "hidden_states" is x_t in both, whatever the network calls it.
        """
        return {}

    def at_step(self, prediction: torch.Tensor) -> torch.Tensor:
        """The weak prediction as one at the step's own x_t: for a branch evaluated at another x."""
        return prediction

    def elsewhere(self, step: Step) -> "State":
        """This state for an evaluation beside the run's own: at another x of the same step, that of `step`.

        What clean passes have shown and what was picked in this step stay; what is done there is kept nowhere.
        """
        other = copy.copy(self)
        other.now = step
        return other

    def note(self, differs: torch.Tensor) -> None:
        """Take down whether a replacement differed: a bool tensor on the device."""
        self.differed = differs if self.differed is None else self.differed | differs

    @property
    def seen(self) -> Any:
        """What an observer saw at this step."""
        return None
