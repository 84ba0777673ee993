"""GAG: the step from dense to sparse attention, split along the sparse output and bounded."""

from dataclasses import dataclass

import torch

from ...core import Rows, Sdpa, State
from ...errors import BadValue
from ...maths.attention import Attention
from ...maths.entmax import ALPHAS
from ...maths.streams import Streams
from ...maths.vectors import widened
from ..common.inside import Inside, Strong, has_moved, put_rows, text_keys
from .pladis import sharpening


@dataclass(frozen=True)
class BoundedSparse(Strong):
    """Sparse output of the text, plus a bounded step from dense to sparse."""

    weight: float
    orthogonal: float
    limit: float
    alpha: float

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return BoundedState(self)


class BoundedState(State):
    """No memory: what it does depends on the live call alone."""

    proves = True

    def __init__(self, spec: BoundedSparse):
        super().__init__()
        self.spec = spec

    def strengthen(self, block: int, call: Attention, sdpa: Sdpa, rows: Rows) -> torch.Tensor:
        live, text = sdpa(call.q), text_keys(call, "gag")
        values = call.values()[:, :, text]
        shift = [sharpening(call.weights(chunk)[..., text], self.spec.alpha) @ values for chunk in call.chunks()]
        old = widened(live[:, :, call.image])
        new = bounded(old, torch.cat(shift, dim=2), self.spec)
        self.note(has_moved(new, old))
        return put_rows(live, slice(None), call.image, new)


def bounded(dense: torch.Tensor, shift: torch.Tensor, spec: BoundedSparse) -> torch.Tensor:
    """The output [B, H, tokens, d] from the dense one and the step to the sparse one; per token and head."""
    sparse = dense + shift
    square = sparse.square().sum(-1, keepdim=True)
    share = torch.where(square > 0, (shift * sparse).sum(-1, keepdim=True) / square.clamp(min=1e-30), 0.0)
    along = share * sparse
    step = along + spec.orthogonal * (shift - along)
    size = step.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    return sparse + spec.weight * (spec.limit / size).clamp(max=1) * step


@dataclass(frozen=True)
class GAG(Inside):
    """GAG: image tokens look at the text through a sparse map, and further in its own direction, bounded.

    T is the attention output with softmax, T' with entmax, r = T' - T. Of r the part along T' is kept, and a share of
    the rest; the step is no longer than `limit` per token and head. weight 0 is T', not T. With orthogonal 1 and no limit
    it is PLADIS with lam = weight + 1. It works in all passes and on all their rows. On joint attention it is the text
    columns of the image rows, whose sum is kept. The authors gave no code: this is a port's reading.

    Args:
        weight: lambda, at least 0; about 10 for SDXL in the port, 0.6 for a single-stream transformer.
        orthogonal: zeta, the share of the orthogonal part that is kept, in [0, 1].
        limit: eta, the longest step, above 0.
        alpha: of entmax, 1.5 or 2 (sparsemax).
        layers: blocks it works in, by number; None and "auto" take all.
        cross: work in the blocks' cross-attention; None takes the model's.

    >>> import emag
    >>> emag.GAG(0.6).limit
    15.0
    """

    weight: float = 0.6
    orthogonal: float = 0.0
    limit: float = 15.0
    alpha: float = 1.5
    layers: tuple[int, ...] | None = None
    cross: bool | None = None

    name = "gag"
    paper = "arXiv 2603.02531"
    equation = "T' + lambda min(1, eta / |r|) r, r the part of T' - T along T'"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight < 0 or not 0 <= self.orthogonal <= 1 or self.limit <= 0:
            raise BadValue("gag needs weight >= 0, orthogonal in [0, 1] and limit > 0, got "
                           f"{self.weight}, {self.orthogonal}, {self.limit}")
        if self.alpha not in ALPHAS:
            raise BadValue(f"gag alpha must be 1.5 or 2, got {self.alpha!r}")

    @property
    def perturbation(self) -> BoundedSparse:
        assert self.layers is not None
        return BoundedSparse(self.layers, bool(self.cross), self.weight, self.orthogonal, self.limit, self.alpha)
