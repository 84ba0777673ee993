"""PLADIS: image tokens look at the text through a sparser map than softmax gives, extrapolated."""

from dataclasses import dataclass
from typing import Literal

import torch

from ...core import Rows, Sdpa, State
from ...errors import BadValue
from ...maths.attention import Attention
from ...maths.entmax import ALPHAS, entmax
from ...maths.streams import Streams
from ...maths.vectors import widened
from ..common.inside import Inside, Strong, has_moved, put_rows, text_keys

Origin = Literal["dense", "sparse"]


@dataclass(frozen=True)
class SparseText(Strong):
    """Text columns of the image rows: a dense map plus `weight` times (sparse - dense)."""

    weight: float
    alpha: float

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return SparseState(self)


class SparseState(State):
    """No memory: what it does depends on the live call alone."""

    proves = True

    def __init__(self, spec: SparseText):
        super().__init__()
        self.spec = spec

    def strengthen(self, block: int, call: Attention, sdpa: Sdpa, rows: Rows) -> torch.Tensor:
        live, text = sdpa(call.q), text_keys(call, "pladis")
        values, alpha = call.values()[:, :, text], self.spec.alpha
        shift = [sharpening(call.weights(chunk)[..., text], alpha) @ values for chunk in call.chunks()]
        old = widened(live[:, :, call.image])
        new = old + self.spec.weight * torch.cat(shift, dim=2)
        self.note(has_moved(new, old))
        return put_rows(live, slice(None), call.image, new)


def sharpening(weights: torch.Tensor, alpha: float) -> torch.Tensor:
    """Sparse minus dense for the text columns [..., n] of a softmax map; their sum m stays: m entmax(log w) - w."""
    logits = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()  # of the text, up to a constant that entmax ignores
    return weights.sum(-1, keepdim=True) * entmax(logits, alpha) - weights


@dataclass(frozen=True)
class PLADIS(Inside):
    """PLADIS: image tokens look at the text through a sparser map than softmax, extrapolated.

    A = dense + lam (sparse - dense) for the text that image tokens look at. Sparse is exact entmax of the same logits.
    It works in all passes and on all their rows, unconditional ones included, and goes with any other rule. Weights
    may become negative where sparse is 0. Maps are computed in chunks of queries.

    On cross-attention it is the whole map. On joint attention (SD3, Flux) it is the text columns of the image rows,
    whose sum is kept, so that image keys and text rows are untouched; the paper's own form for joint attention is
    unconfirmed. Raises `Unsupported` where the attention holds no text.

    Args:
        lam: how far to go from dense to sparse, finite. 2 in a port; 0 is off.
        alpha: of entmax, 1.5 or 2 (sparsemax).
        origin: what lam counts from. "dense": as above (the port). "sparse": sparse + lam (sparse - dense), as a
            summary writes it. Which one the paper's lambda means is unconfirmed.
        layers: blocks it works in, by number; None and "auto" take all.
        cross: work in the blocks' cross-attention; None takes the model's.

    >>> import emag
    >>> emag.PLADIS(2).equation
    'A = softmax + lam (entmax - softmax)'
    >>> emag.PLADIS(1, origin="sparse").weight  # the same, counted from the dense map
    2
    """

    lam: float = 2.0
    alpha: float = 1.5
    origin: Origin = "dense"
    layers: tuple[int, ...] | None = None
    cross: bool | None = None

    name = "pladis"
    paper = "arXiv 2503.07677"
    equation = "A = softmax + lam (entmax - softmax)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not float("-inf") < self.lam < float("inf"):
            raise BadValue(f"pladis lam must be a finite number (0 is off, 2 as in a port), got {self.lam!r}")
        if self.alpha not in ALPHAS:
            raise BadValue(f"pladis alpha must be 1.5 or 2, got {self.alpha!r}")

    @property
    def weight(self) -> float:
        """lam counted from the dense map."""
        return self.lam + 1 if self.origin == "sparse" else self.lam

    @property
    def neutral(self) -> bool:
        return self.weight == 0

    @property
    def perturbation(self) -> SparseText:
        assert self.layers is not None
        return SparseText(self.layers, bool(self.cross), self.weight, self.alpha)
