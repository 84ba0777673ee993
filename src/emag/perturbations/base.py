"""What the engine needs of any branch beyond the clean two: which blocks, from where on, and its state in a run."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..attention import Attention
from ..streams import Streams

if TYPE_CHECKING:
    from ..guidance import Step

Sdpa = Callable[[torch.Tensor], torch.Tensor]
"""The live attention for given queries."""

Tokens = dict[str, torch.Tensor]
"""The streams of a block by name, "hidden_states" first: what it takes and what it returns."""


@dataclass(frozen=True)
class Rows:
    """Batch rows of one network call: the conditional ones, and the unconditional ones where they are in it."""

    cond: slice
    uncond: slice | None
    total: int

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

    differed: torch.Tensor | None = None
    grid: tuple[int, ...] = ()
    proves: bool = False  # True where it notes by itself whether it changed anything; else the predictions are compared
    picks: list[torch.Tensor | None]

    def __init__(self) -> None:
        self.picks = []

    def place(self, grid: tuple[int, ...]) -> None:
        """The grid of this run's image tokens, told once, before the first step."""
        self.grid = grid

    def grid_of(self, tokens: int) -> tuple[int, ...]:
        """The grid of a block of `tokens` image tokens: this run's, or that halved (rounded up) as often as fits."""
        found = self.grid
        while math.prod(found) > tokens and max(found[-2:]) > 1:
            found = (*found[:-2], *(-(-side // 2) for side in found[-2:]))
        return found if math.prod(found) == tokens else self.grid

    def begin(self, index: int) -> None:
        """Start of the step `index`."""
        self.picks.append(None)

    @property
    def watches(self) -> bool:
        """True where the clean pass of this step is to be shown to `watch`."""
        return False

    def watch(self, block: int, call: Attention, rows: Rows) -> None:
        """See the live attention of one of `blocks` on the clean pass."""

    def predicted(self, step: "Step", cond: torch.Tensor) -> None:
        """See the clean conditional prediction of a step that evaluates this branch, before the weak passes."""

    def meet(self, states: "Mapping[Perturbation, State]") -> None:
        """At the start of a run: the states of all its branches."""

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

    def note(self, differs: torch.Tensor) -> None:
        """Take down whether a replacement differed: a bool tensor on the device."""
        self.differed = differs if self.differed is None else self.differed | differs

    @property
    def seen(self) -> Any:
        """What an observer saw at this step."""
        return None


@dataclass(frozen=True)
class Perturbation:
    """A further branch: a frozen, hashable value. Two rules that name equal ones share one evaluation.

    By default one evaluation of the conditional rows at every step, from the first block on, that changes nothing.
    """

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks whose attention is tapped."""
        return ()

    @property
    def changes(self) -> tuple[int, ...]:
        """Blocks that are changed as a whole in the weak pass, see `State.change`."""
        return ()

    @property
    def skipped(self) -> int:
        """How many of `changes` are not evaluated at all."""
        return 0

    @property
    def modules(self) -> str | None:
        """Which submodules' outputs the weak pass changes: "time", those that embed the timestep; None for none."""
        return None

    @property
    def resume(self) -> int:
        """First block that differs from the clean pass."""
        return 0

    @property
    def cross(self) -> bool:
        """True where `blocks` means their cross-attention, on networks that keep it apart."""
        return False

    @property
    def ahead(self) -> bool:
        """True where the branch is evaluated before the clean pass, for what other branches need of it."""
        return False

    @property
    def strong(self) -> bool:
        """True where the branch works in the clean pass itself (and in all others), and needs no evaluation."""
        return False

    @property
    def model(self) -> str | None:
        """Name of another network that makes the evaluation; None is the host's own."""
        return None

    @property
    def lora_scale(self) -> float | None:
        """What the scales of the network's LoRA adapters are multiplied by in the evaluation; None leaves them."""
        return None

    @property
    def null(self) -> bool:
        """True where the branch is evaluated on the unconditional rows' arguments."""
        return False

    @property
    def condition(self) -> str | None:
        """Name of the condition the branch is evaluated under; None is the conditional rows' own."""
        return None

    @property
    def observes(self) -> bool:
        """True where the branch only watches the clean pass and is never evaluated."""
        return False

    @property
    def all_rows(self) -> bool:
        """True where the weak pass runs all rows of the host's call, not the conditional ones alone."""
        return False

    @property
    def tracks(self) -> bool:
        """True where the weak pass uses what earlier clean passes of the same network showed."""
        return False

    @property
    def sees_null(self) -> bool:
        """True where the unconditional rows of the clean pass are watched: where UNCOND is read, they are not spared."""
        return False

    @property
    def needs_uncond(self) -> bool:
        """True where the unconditional rows must be in the same network call."""
        return False

    @property
    def whole(self) -> bool:
        """True where it is evaluated from inputs, or with weights, of its own: nothing recorded can stand in for them."""
        swapped = self.model or self.modules or self.lora_scale is not None
        return bool(self.condition or self.null or swapped)

    @property
    def entry(self) -> int:
        """First block that its pass evaluates."""
        return 0 if self.whole else self.resume

    def runs(self, index: int, sigmas: tuple[float, ...]) -> bool:
        """True where step `index` of a run over `sigmas` needs an evaluation."""
        return not (self.observes or self.strong)

    def check(self, sigmas: tuple[float, ...]) -> None:
        """Raise `BadValue` where a run over `sigmas` would never use the branch."""

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        """State for one run."""
        return State()

    def state_bytes(self, rows: int, image: int, text: int, heads: int, head_dim: int) -> int:
        """Bytes held for `rows` rows of `image` + `text` tokens."""
        return 0


@dataclass(frozen=True)
class OnLayers(Perturbation):
    """A branch that taps the attention of `layers`, and differs from the clean pass from the first of them on."""

    layers: tuple[int, ...]

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.layers

    @property
    def resume(self) -> int:
        return min(self.layers)


@dataclass(frozen=True)
class Given(Perturbation):
    """The conditional rows under another condition: a name the host was given, or "prompt:a text"."""

    name: str

    @property
    def condition(self) -> str | None:
        return self.name
