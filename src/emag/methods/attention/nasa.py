"""NASA: the negative prompt's attention taken out of the positive one's."""

from dataclasses import dataclass

import torch

from ...core import Rows, Sdpa
from ...errors import BadValue
from ...maths.attention import Attention
from ...maths.streams import Streams
from ...maths.vectors import widened
from ..common.inside import Inside
from ..common.negative_text import AgainstText, NegativePass, NegativeText


@dataclass(frozen=True)
class SubtractedAttention(AgainstText):
    """Image features without `strength` times what image queries see in the negative text."""

    strength: float
    negative: NegativePass | None = None

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "SubtractedState":
        return SubtractedState(self)


class SubtractedState(NegativeText):
    """Remembers the negative text of the step, and nothing else."""

    name = "nasa"

    def __init__(self, spec: SubtractedAttention):
        super().__init__(spec.negative)
        self.spec = spec

    def strengthen(self, block: int, call: Attention, sdpa: Sdpa, rows: Rows) -> torch.Tensor:
        # in at least fp32: Z- may be far larger than what is left
        return self.pushed(block, call, sdpa, rows, lambda plus, minus: widened(plus) - self.spec.strength * widened(minus),
                           pictures=False)


@dataclass(frozen=True)
class NASA(Inside):
    """Negative-away steer attention (NASA): take what the negative prompt shows out of the image features.

    Z = Z+ - alpha Z-, Z+ the image features of a block's attention and Z- what the same image queries see in the negative
    text alone, before the output projection. Made for models of one or few steps without CFG, where CFG with a negative
    prompt spoils the image: CFG(1.0) beside it makes it NASA alone. Where the negative text comes from, see `NAG`. On joint
    attention the image's own keys are left out of Z-; what the authors take there is unconfirmed.

    Unconditional rows and text rows stay untouched. Unlike `NAG` and `ONAG` nothing holds the result: all features shrink
    where the two texts say the same.

    Args:
        strength: alpha, at least 0; 0 is off. The authors': 0.1 on SD1.5, 0.2 on SD2.1, 0.5 on PixArt-alpha, 1 where a
            model was distilled with it. None takes the model's.
        layers: blocks it works in, by number; None and "auto" take all.
        cross: work in the blocks' cross-attention; None takes the model's.
        negative: the name of a condition ("prompt:a text") that gives the negative text in the place of the
            unconditional rows, at one more evaluation a step; see `NAG`.

    >>> import emag
    >>> emag.NASA(0.0).neutral, emag.NASA(0.5, negative="prompt:blurry").neutral
    (True, False)
    """

    strength: float | None = None
    layers: tuple[int, ...] | None = None
    cross: bool | None = None
    negative: str | None = None

    name = "nasa"
    cost = "none; with a negative named, one evaluation of the conditional rows a step"
    paper = "arXiv 2412.02687"
    equation = "Z = Z+ - alpha Z-"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength is not None and self.strength < 0:
            raise BadValue(f"nasa strength must be at least 0 (0 is off), got {self.strength}")

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    @property
    def perturbation(self) -> SubtractedAttention:
        assert self.layers is not None and self.strength is not None
        source = NegativePass.named(self.negative, self.layers, bool(self.cross))
        return SubtractedAttention(self.layers, bool(self.cross), self.strength, source)
