"""TACA: image tokens look more at the text, in the first steps."""

from dataclasses import dataclass

import torch

from ...core import Rows, Sdpa, State
from ...errors import BadValue
from ...maths.attention import Attention
from ...maths.streams import Streams
from ...maths.vectors import widened
from ..common.inside import Inside, Keys, Strong, attend, has_moved, put_rows, text_keys


@dataclass(frozen=True)
class LouderText(Strong):
    """Logits of image queries and text keys times `factor`, in the first `share` of the run."""

    factor: float
    share: float

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return LouderState(self, len(sigmas))


class LouderState(State):
    """Acts in the first steps."""

    proves = True

    def __init__(self, spec: LouderText, count: int):
        super().__init__()
        self.spec, self.count, self.acts = spec, count, False

    def begin(self, index: int) -> None:
        super().begin(index)
        self.acts = index < first_steps(self.spec.share, self.count)

    def strengthen(self, block: int, call: Attention, sdpa: Sdpa, rows: Rows) -> torch.Tensor:
        live = sdpa(call.q)
        if not self.acts:
            return live
        keys, text = Keys.of(call, slice(None)), text_keys(call, "taca")
        k = keys.k.clone()
        k[:, :, text] *= self.spec.factor  # a factor on keys is one on their logits; a mask is added after it
        new, old = attend(call, Keys(k, keys.v, keys.mask)), live[:, :, call.image]
        self.note(has_moved(widened(new), widened(old)))
        return put_rows(live, slice(None), call.image, new)


def first_steps(share: float, count: int) -> int:
    """How many of `count` steps the first `share` of a run is, at least one."""
    return max(1, int(share * count + 1e-9))


@dataclass(frozen=True)
class TACA(Inside):
    """TACA: image tokens look more at the text in the first steps, where the picture is laid out.

    In joint attention (SD3, Flux) few text keys stand against many image keys. Here the logits of image queries and
    text keys are multiplied by a factor before the softmax, on all rows, in all passes. It is a factor and not an
    offset: logits below 0 go down. The published gains are with a LoRA trained for it; what it gives alone is unconfirmed.

    Args:
        factor: gamma, at least 0; 1 is off, 1.2 published.
        share: the first share of the run's steps, in (0, 1], at least one step; 0.1 published.
        layers: blocks it works in, by number; None and "auto" take all.

    >>> import emag
    >>> emag.TACA(1.0).neutral
    True
    """

    factor: float = 1.2
    share: float = 0.1
    layers: tuple[int, ...] | None = None

    name = "taca"
    paper = "arXiv 2506.07986"
    equation = "logits of image queries and text keys times gamma"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor < 0 or not 0 < self.share <= 1:
            raise BadValue(f"taca factor is at least 0, share in (0, 1], got {self.factor} and {self.share}")

    @property
    def neutral(self) -> bool:
        return self.factor == 1

    @property
    def perturbation(self) -> LouderText:
        assert self.layers is not None
        return LouderText(self.layers, False, self.factor, self.share)
