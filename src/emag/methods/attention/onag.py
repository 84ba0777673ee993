"""Orthogonal NAG: what the negative prompt says beyond the positive one, taken out of the attention's features."""

from dataclasses import dataclass

import torch

from ...core import Rows, Sdpa
from ...errors import BadValue
from ...maths.attention import Attention
from ...maths.streams import Streams
from ...maths.vectors import divided, widened
from ..common.inside import Inside
from ..common.negative_text import AgainstText, NegativePass, NoisyFeatures, check_noise


@dataclass(frozen=True)
class OrthogonalAttention(AgainstText):
    """Image features without `strength` times the part of the negative ones that is orthogonal to them."""

    strength: float
    sigma_end: float
    negative: NegativePass | None = None

    def check(self, sigmas: tuple[float, ...]) -> None:
        """Raise `BadValue` where no step is noisy enough."""
        check_noise("o-nag", self.sigma_end, sigmas)

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "OrthogonalState":
        return OrthogonalState(self, sigmas)


class OrthogonalState(NoisyFeatures):
    """Acts while the noise is at least `sigma_end`."""

    name = "o-nag"

    def __init__(self, spec: OrthogonalAttention, sigmas: tuple[float, ...]):
        super().__init__(spec.negative, spec.sigma_end, sigmas)
        self.spec = spec

    def strengthen(self, block: int, call: Attention, sdpa: Sdpa, rows: Rows) -> torch.Tensor:
        if not self.acts:
            return sdpa(call.q)
        return self.pushed(block, call, sdpa, rows, lambda plus, minus: without(plus, minus, self.spec.strength))


def without(plus: torch.Tensor, minus: torch.Tensor, strength: float) -> torch.Tensor:
    """Z+ - strength (Z- - its part along Z+), [B, H, tokens, d]; per token over all heads, in at least fp32."""
    plus, minus = widened(plus), widened(minus)
    along = divided((plus * minus).sum((1, 3), keepdim=True), plus.square().sum((1, 3), keepdim=True))
    return plus - strength * (minus - along * plus)


@dataclass(frozen=True)
class ONAG(Inside):
    """Orthogonal NAG: take out of the image features what only the negative prompt says.

    Z = Z+ - alpha (Z- - P Z-), P the projection on Z+. Z+ are the image features of a block's attention, Z- those that
    the negative text gives: see `NAG`, of which this is a variant without a cap and a blend. What both texts say alike
    stays, so an unrelated negative costs less of the image. Projections are per image token over all heads, before the
    output projection. Unconditional rows and text rows stay untouched; the pipeline's CFG still combines.

    Args:
        strength: alpha, at least 0; 0 is off. A port's: 4 for FLUX.1 dev and SD3.5 large, 2 for FLUX.1 schnell.
        sigma_end: it acts at steps of at least this noise, sigma in [0, 1]; 0, at all of them, is an untested default.
        layers: blocks it works in, by number; None and "auto" take all.
        cross: work in the blocks' cross-attention.
        negative: the name of a condition ("prompt:a text") that gives the negative text in the place of the
            unconditional rows, at one more evaluation a step; see `NAG`.

    >>> import emag
    >>> emag.ONAG(0.0).neutral, emag.ONAG(4.0, negative="prompt:blurry").neutral
    (True, False)
    """

    strength: float = 4.0
    sigma_end: float = 0.0
    layers: tuple[int, ...] | None = None
    cross: bool | None = None
    negative: str | None = None

    name = "o-nag"
    cost = "none; with a negative named, one evaluation of the conditional rows at the steps where it acts"
    paper = "arXiv 2605.29390"
    equation = "Z = Z+ - alpha (Z- - P Z-), P onto Z+"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength < 0 or not 0 <= self.sigma_end <= 1:
            raise BadValue(f"o-nag strength is at least 0, sigma_end in [0, 1], got {self.strength} and {self.sigma_end}")

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    @property
    def perturbation(self) -> OrthogonalAttention:
        assert self.layers is not None
        across, end = bool(self.cross), self.sigma_end
        source = NegativePass.named(self.negative, self.layers, across, end)
        return OrthogonalAttention(self.layers, across, self.strength, end, source)
