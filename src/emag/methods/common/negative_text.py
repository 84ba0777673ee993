"""Where NAG and those like it have their negative text from: the unconditional rows of the call, or a pass of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...core import Perturbation, Rows, Sdpa, State
from ...errors import BadValue, Unsupported
from ...maths.attention import Attention
from ...maths.streams import Streams
from .inside import Keys, Strong, attend, has_moved, put_rows, text_keys

FeaturePush = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Z from Z+ and Z-, [B, H, tokens, d] each."""


@dataclass(frozen=True)
class NegativePass(Perturbation):
    """The conditional rows under a negative condition, before the clean pass.

    It gives the negative text where no unconditional rows are in the same network call. It costs one evaluation at
    steps of at least the noise `sigma_end`.

    Args:
        negative: the name of the condition.
        layers: blocks whose text is kept, by number.
        across: the text of their cross-attention is meant.
        sigma_end: least noise, sigma in [0, 1], at which it runs.
    """

    negative: str
    layers: tuple[int, ...]
    across: bool
    sigma_end: float = 0.0

    @classmethod
    def named(cls, negative: str | None, layers: tuple[int, ...], across: bool,
              sigma_end: float = 0.0) -> "NegativePass | None":
        """The pass under a condition by name; None where none is named, and the unconditional rows give the text."""
        return None if negative is None else cls(negative, layers, across, sigma_end)

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.layers

    @property
    def cross(self) -> bool:
        return self.across

    @property
    def condition(self) -> str | None:
        return self.negative

    @property
    def ahead(self) -> bool:
        return True

    def runs(self, index: int, sigmas: tuple[float, ...]) -> bool:
        return sigmas[index] >= self.sigma_end

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "NegativePassState":
        return NegativePassState()


class AgainstText(Strong):
    """Base of branches that work against a negative text; a subclass has where it comes from, `negative`, as a field."""

    negative: NegativePass | None

    @property
    def needs_uncond(self) -> bool:
        return self.negative is None


class NegativePassState(State):
    """Keeps the text keys and values of each block, for one step."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, Keys] = {}

    def begin(self, index: int) -> None:
        super().begin(index)
        self.held.clear()

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor:
        self.held[block] = Keys.of(call, text_keys(call, "a negative text")).copied()
        return sdpa(call.q)


class NegativeText(State):
    """State of a method whose negative text comes from the unconditional rows, kept for the step's weak passes.

    Args:
        source: the branch that gives the text instead, or None. What is kept is `held`: by block, its keys and values.
    """

    proves = True
    name = ""

    def __init__(self, source: NegativePass | None = None) -> None:
        super().__init__()
        self.held: dict[int, Keys] = {}
        self.source = source

    def meet(self, states: Mapping[Any, State]) -> None:
        if self.source is not None:
            found = states[self.source]
            assert isinstance(found, NegativePassState)
            self.held = found.held

    def begin(self, index: int) -> None:
        super().begin(index)
        if self.source is None:
            self.held.clear()

    def negative(self, block: int, call: Attention, rows: Rows) -> Keys:
        """The negative text of `block`, a row for each conditional row of the pass."""
        if self.source is None and rows.uncond is not None:
            found = Keys.of(call.rows(rows.uncond), text_keys(call, self.name))
            self.held.setdefault(block, found.copied())
            return found
        if block not in self.held:
            raise Unsupported(f"{self.name} takes the negative text from the unconditional rows, which are not in this "
                              "network call: name it in the rule, negative='prompt:a text', or use a pipeline that "
                              "evaluates both in one (SD3, PixArt), its guidance on")
        held = self.held[block]
        return held.repeated((rows.cond.stop - rows.cond.start) // len(held.k))

    def pushed(self, block: int, call: Attention, sdpa: Sdpa, rows: Rows, push: FeaturePush,
               pictures: bool = True) -> torch.Tensor:
        """The live output, its conditional image features Z+ moved by `push`(Z+, Z-), Z- those of the negative text.

        pictures: on joint attention, Z- is over the image's keys too.
        """
        live = sdpa(call.q)
        if rows.cond.start == rows.cond.stop:
            return live
        part, negative = call.rows(rows.cond), self.negative(block, call, rows)
        keys = negative if call.cross or not pictures else Keys.of(part, call.pictures).beside(negative)
        plus = live[rows.cond][:, :, call.image]
        new = push(plus, attend(part, keys))
        self.note(has_moved(new, plus))
        return put_rows(live, rows.cond, call.image, new)


class NoisyFeatures(NegativeText):
    """State of one that acts while the noise is at least `sigma_end`."""

    def __init__(self, source: NegativePass | None, sigma_end: float, sigmas: tuple[float, ...]):
        super().__init__(source)
        self.sigma_end, self.sigmas, self.acts = sigma_end, sigmas, False

    def begin(self, index: int) -> None:
        super().begin(index)
        self.acts = self.sigmas[index] >= self.sigma_end


def check_noise(name: str, sigma_end: float, sigmas: tuple[float, ...]) -> None:
    """Raise `BadValue` where no step is noisy enough."""
    if max(sigmas) < sigma_end:
        raise BadValue(f"{name} sigma_end={sigma_end:g} leaves no step: the noisiest has sigma {max(sigmas):.3g}")
