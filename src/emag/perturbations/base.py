"""What the engine needs of any weak branch that touches blocks: which, from where on, and its state in a run."""

from dataclasses import dataclass
from typing import Protocol

import torch

from ..attention import Attention
from ..streams import Streams
from .average import Sdpa


@dataclass(frozen=True)
class Rows:
    """Batch rows of one network call: the conditional ones, and the unconditional ones where they are in it."""

    cond: slice
    uncond: slice | None
    total: int


class State(Protocol):
    """A weak branch's state in one run."""

    differed: torch.Tensor | None
    """On the device: whether any replacement differed from what it replaced; None where none was made."""
    picks: list[torch.Tensor | None]
    """Per evaluation: the picked block of each sample as a position in `blocks`, or None."""

    def begin(self, index: int) -> None: ...

    @property
    def watches(self) -> bool: ...

    def watch(self, block: int, call: Attention, rows: Rows) -> None: ...

    def choose(self) -> None: ...

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor: ...


class Perturbation(Protocol):
    """A weak branch: a frozen, hashable value. Two rules that name equal ones share one evaluation."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks whose attention is tapped."""
        ...

    @property
    def resume(self) -> int:
        """First block that differs from the clean pass."""
        ...

    @property
    def all_rows(self) -> bool:
        """True where the weak pass runs all rows of the host's call, not the conditional ones alone."""
        ...

    @property
    def needs_uncond(self) -> bool:
        """True where the unconditional rows must be in the same network call."""
        ...

    def runs(self, index: int, sigmas: tuple[float, ...]) -> bool:
        """True where step `index` of a run over `sigmas` needs a weak pass."""
        ...

    def check(self, sigmas: tuple[float, ...]) -> None:
        """Raise `BadValue` where a run over `sigmas` would never use the branch."""
        ...

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        """State for one run."""
        ...

    def state_bytes(self, rows: int, image: int, text: int, heads: int, head_dim: int) -> int:
        """Bytes held for `rows` rows of `image` + `text` tokens."""
        ...
