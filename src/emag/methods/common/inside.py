"""What methods share that work inside the attention of every pass: the rule, and the keys that image queries see."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ...core import Perturbation, Rule
from ...errors import Unsupported
from ...maths.attention import Attention
from .push import layers_of


@dataclass(frozen=True)
class Strong(Perturbation):
    """A branch without evaluation: it changes the attention of `layers` in the clean pass and in all others.

    Args:
        layers: blocks, by number.
        across: the blocks' cross-attention is meant, on networks that keep it apart.
    """

    layers: tuple[int, ...]
    across: bool

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.layers

    @property
    def cross(self) -> bool:
        return self.across

    @property
    def strong(self) -> bool:
        return True


@dataclass(frozen=True)
class Inside(Rule):
    """Base of rules that work inside the network's attention, and leave predictions alone.

    A subclass says what it does there (`perturbation`). It works in every pass of the network, and in all blocks
    unless `layers` names some. So it goes beside whatever combines: the pipeline's CFG goes on.
    """

    kind = "attention"
    cost = "none; some more attention in the blocks it works in"

    def __post_init__(self) -> None:
        layers = getattr(self, "layers", None)
        if layers is not None:
            object.__setattr__(self, "layers", layers_of(self.name, layers))

    def automatic_layers(self, depth: int) -> tuple[int, ...]:
        """Every block."""
        return tuple(range(depth))

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        for branch in self.weak:
            check_text(self.name, network, branch.blocks, branch.cross)

    @property
    def perturbation(self) -> Perturbation:
        """What it does inside, once its defaults are filled in."""
        raise NotImplementedError

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        """What it does, after the pass it takes its negative text from, where there is one."""
        source = getattr(self.perturbation, "negative", None)
        return (self.perturbation,) if source is None else (source, self.perturbation)


@dataclass(frozen=True)
class Keys:
    """What image queries see.

    Args:
        k: keys [B, G, n, d], G heads of them.
        v: values, of the same shape.
        mask: None, or additive and broadcastable to [B, H, image tokens, n].
    """

    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor | None = None

    @classmethod
    def of(cls, call: Attention, at: slice) -> "Keys":
        """The keys `at` of a call, as its image queries see them."""
        mask = None if call.mask is None else _additive(call)[..., at]
        return cls(call.k[:, :, at], call.v[:, :, at], mask)

    def beside(self, other: "Keys") -> "Keys":
        """These keys, then the other's."""
        k, v = (torch.cat(pair, dim=2) for pair in ((self.k, other.k), (self.v, other.v)))
        if self.mask is None and other.mask is None:
            return Keys(k, v)
        masks = self.bias(), other.bias()
        # a mask may be one for all rows or heads: as many as the other has
        shape = torch.broadcast_shapes(*(mask.shape[:-1] for mask in masks))
        return Keys(k, v, torch.cat([mask.expand(*shape, mask.shape[-1]) for mask in masks], dim=-1))

    def repeated(self, times: int) -> "Keys":
        """The same keys for a batch repeated `times`."""
        mask = self.mask if self.mask is None or self.mask.shape[0] == 1 else torch.cat([self.mask] * times)
        return Keys(torch.cat([self.k] * times), torch.cat([self.v] * times), mask)

    def copied(self) -> "Keys":
        """A copy that keeps nothing else alive."""
        return Keys(self.k.clone(), self.v.clone(), None if self.mask is None else self.mask.clone())

    def bias(self) -> torch.Tensor:
        """What is added to the logits."""
        return self.k.new_zeros(1, 1, 1, self.k.shape[2]) if self.mask is None else self.mask


def attend(call: Attention, keys: Keys) -> torch.Tensor:
    """Attention output [B, H, image tokens, d] of the image queries of a call over `keys`; fused."""
    q = call.image_queries()
    k, v, mask = (None if t is None else t.to(q.dtype) for t in (keys.k, keys.v, keys.mask))
    grouped = keys.k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=call.scale, enable_gqa=grouped)


def text_keys(call: Attention, name: str) -> slice:
    """Where the text is among the keys. Raises `Unsupported` where there is none."""
    if not call.has_text:
        raise Unsupported(_no_text(name))
    whole = call.k.shape[2]
    if call.cross:
        return slice(0, whole)
    return slice(call.image.stop, whole) if call.image.start == 0 else slice(0, call.image.start)


def check_text(name: str, network: Any, layers: Sequence[int], cross: bool) -> None:
    """Raise `Unsupported` where the image tokens of some block see no text, in its attention or its cross-attention."""
    for at in layers:
        if cross and network.blocks[at].cross is None:
            raise Unsupported(f"{network.backbone.name} has no cross-attention of its own in block {at}")
        if not network.blocks[at].has_text(cross):
            raise Unsupported(_no_text(name))


def _no_text(name: str) -> str:
    return (f"{name} needs text in the attention, and here there is none: it is for joint attention (SD3, Flux) and, with "
            "cross=True, for cross-attention (PixArt)")


def put_rows(live: torch.Tensor, rows: slice, image: slice, new: torch.Tensor) -> torch.Tensor:
    """`live` [rows, H, L, d] with `new` in the place of some rows' image tokens."""
    out = live.clone()
    out[rows, :, image] = new.to(live.dtype)
    return out


def has_moved(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Whether `new` differs from `old`, of one shape, by more than rounding, as a bool on the device."""
    return (new - old).abs().amax() > 1e-6 * old.abs().amax()


def _additive(call: Attention) -> torch.Tensor:
    """The mask of the image queries as numbers to add to the logits, [B or 1, H or 1, image tokens or 1, S]."""
    assert call.mask is not None
    mask = call.mask[(None,) * (4 - call.mask.ndim)]
    mask = mask[:, :, call.image] if mask.shape[2] > 1 else mask
    mask = mask.expand(*mask.shape[:3], call.k.shape[2])
    if mask.dtype != torch.bool:
        return mask
    lowest = torch.finfo(call.q.dtype).min  # finite, so that a text masked as a whole makes no NaN
    return torch.zeros_like(mask, dtype=call.q.dtype).masked_fill(~mask, lowest)
