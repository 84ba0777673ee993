"""What the engine needs of any branch beyond the clean two: which blocks, from where on, and how its state starts."""

from dataclasses import dataclass

from ..maths.streams import Streams
from .state import State


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
    def around(self) -> tuple[int, ...]:
        """Blocks around whose attention module as a whole a strong branch works, in every pass: see `State.around`."""
        return ()

    @property
    def around_cross(self) -> bool:
        """True where it works around their cross-attention as well, which the network then keeps apart."""
        return False

    @property
    def lone(self) -> bool:
        """True where it serves passes what it kept of others, so that no weak branch may be evaluated in its run."""
        return False

    @property
    def skipped(self) -> int:
        """How many of `changes` are not evaluated at all."""
        return 0

    @property
    def modules(self) -> str | None:
        """Which submodules' outputs the weak pass changes: "time", those that embed the timestep; None for none."""
        return None

    @property
    def noisier(self) -> float:
        """By how much noisier a time than the step's the network is told, as a share of the training schedule."""
        return 0.0

    @property
    def copies(self) -> int:
        """How many times over its rows are evaluated, where its state gives each copy inputs of its own."""
        return 1

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
    def sees_early(self) -> bool:
        """True where an observer sees what the network's intermediate head predicts: see `State.look_early`."""
        return False

    @property
    def all_rows(self) -> bool:
        """True where the weak pass runs all rows of the host's call, not the conditional ones alone."""
        return False

    @property
    def reads_text(self) -> bool:
        """True where it is about the part of the text in the attention of `blocks`."""
        return False

    @property
    def takes_uncond(self) -> bool:
        """True where its prediction is the unconditional rows' of a pass of all rows."""
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
    def by_head(self) -> bool:
        """True where its state, given some heads alone, does to them what it does to them among all: what it averages over
        heads goes through `Attention.over_heads`."""
        return False

    @property
    def whole(self) -> bool:
        """True where it is evaluated from inputs, or with weights, of its own: nothing recorded can stand in for them."""
        swapped = self.model or self.modules or self.noisier or self.copies > 1 or self.lora_scale is not None
        return bool(self.condition or self.null or swapped)

    @property
    def entry(self) -> int:
        """First block that its pass evaluates."""
        return 0 if self.whole else self.resume

    def runs(self, index: int, sigmas: tuple[float, ...]) -> bool:
        """True where step `index` of a run over `sigmas` needs an evaluation."""
        return not (self.observes or self.strong)

    def acts(self, index: int, sigmas: tuple[float, ...]) -> bool:
        """True where its prediction is another one than the clean at step `index`: else none is made at another x."""
        return self.runs(index, sigmas)

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
class Conditioned(Perturbation):
    """The conditional rows under another condition: a name the host was given, or "prompt:a text"."""

    name: str

    @property
    def condition(self) -> str | None:
        return self.name
