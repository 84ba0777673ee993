"""Attention as pure functions: one call seen at the seam, its softmax map in query chunks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

CHUNK_BYTES = 8 * 2**20  # of fp32 map held at a time beside the state; small enough to stay in a CPU's cache


@dataclass(frozen=True)
class Attention:
    """One attention call: q [B, H, L, d], k and v [B, G, S, d] with G dividing H, and where its image tokens sit.

    mask: None, or bool (True is kept) or additive, broadcastable to [B, H, L, S]. image: slice of L and of S. cross: the
    keys are other tokens (text) than the queries. references: tokens of reference images, right behind the image. frames: of
    a video whose frames attend apart; H counts the heads of each, frame by frame. over_processes: makes of a mean over these
    heads the one over all of them, where other processes have the rest.
    """

    q: torch.Tensor
    # G < H is grouped-query attention: each head of k and v serves H / G heads of q
    k: torch.Tensor
    v: torch.Tensor
    image: slice
    mask: torch.Tensor | None = None
    scale: float | None = None
    cross: bool = False
    references: int = 0
    frames: int = 1
    over_processes: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def pictures(self) -> slice:
        """The image and the reference images behind it."""
        return slice(self.image.start, self.image.stop + self.references)

    @property
    def has_text(self) -> bool:
        """True where the keys hold more than pictures."""
        return self.cross or self.pictures.stop - self.pictures.start < self.k.shape[2]

    def rows(self, rows: slice) -> "Attention":
        """The same call for some batch rows."""
        if self.mask is not None and self.mask.ndim == 4 and self.mask.shape[0] > 1:
            return replace(self, q=self.q[rows], k=self.k[rows], v=self.v[rows], mask=self.mask[rows])
        return replace(self, q=self.q[rows], k=self.k[rows], v=self.v[rows])

    def over_heads(self, mean: torch.Tensor) -> torch.Tensor:
        """The mean over all heads of which `mean` is the one over the heads of this call."""
        return mean if self.over_processes is None else self.over_processes(mean)

    def image_queries(self) -> torch.Tensor:
        """Image rows of q, [B, H, image tokens, d]."""
        return self.q[:, :, self.image]

    def chunks(self) -> Iterator[slice]:
        """Slices of the image queries whose fp32 map fits in CHUNK_BYTES."""
        batch, heads, keys = self.q.shape[0], self.q.shape[1], self.k.shape[2]
        size = max(1, CHUNK_BYTES // (4 * batch * heads * keys))
        count = self.image.stop - self.image.start
        return (slice(lo, min(lo + size, count)) for lo in range(0, count, size))

    def weights(self, chunk: slice, queries: torch.Tensor | None = None) -> torch.Tensor:
        """Softmax map of the image queries in `chunk` over all keys, [B, H, chunk, S], fp32.

        `queries` [B, H, image tokens, d] stands in for the image rows of q where given.
        """
        q = (self.image_queries() if queries is None else queries)[:, :, chunk].float()
        # softmax(q k^T / sqrt(d)), in fp32 whatever the network runs in: averages and statistics add up many of these
        scale = self.q.shape[-1] ** -0.5 if self.scale is None else self.scale
        logits = (q * scale) @ _heads(self.k, q.shape[1]).float().transpose(-1, -2)
        return torch.softmax(self._masked(logits, chunk), dim=-1)

    def image_output(self, seen: torch.Tensor | None, queries: torch.Tensor | None = None) -> torch.Tensor:
        """Attention output of the image queries where they see only `seen` [image tokens, S] bool of the keys; None is all.

        `queries` [B, H, image tokens, d] stands in for the image rows of q where given.
        """
        heads = self.q.shape[1]
        k, v = (_heads(x, heads).to(self.q.dtype) for x in (self.k, self.v))
        queries = self.image_queries() if queries is None else queries
        return F.scaled_dot_product_attention(queries, k, v, attn_mask=self._image_mask(seen), scale=self.scale)

    def _image_mask(self, seen: torch.Tensor | None) -> torch.Tensor | None:
        if self.mask is None:
            return seen
        mask = self.mask[..., self.image, :] if self.mask.shape[-2] > 1 else self.mask
        if seen is None:
            return mask
        return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, float("-inf"))

    def key_size(self) -> torch.Tensor:
        """Mean |k| per sample [B], over the keys that a mask of keys leaves."""
        size, mask = self.k.float().abs().mean((1, 3)), self.mask
        if mask is None or mask.dtype != torch.bool or mask.ndim != 4 or mask.shape[1:3] != (1, 1):
            return self.over_heads(size.mean(1))
        seen = mask[:, 0, 0].expand_as(size)
        # padded keys would pull the mean towards the size of padding
        return self.over_heads((size * seen).sum(1) / seen.sum(1))

    def values(self) -> torch.Tensor:
        """v in fp32, grouped heads repeated to [B, H, S, d]."""
        return _heads(self.v, self.q.shape[1]).float()

    def _masked(self, logits: torch.Tensor, chunk: slice) -> torch.Tensor:
        if self.mask is None:
            return logits
        mask = self.mask
        if mask.shape[-2] > 1:
            mask = mask[..., self.image, :][..., chunk, :]
        return logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask.float()


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def writable(made: torch.Tensor) -> torch.Tensor:
    """`made`, or a copy where autograd keeps it for a backward pass, as it does what attention and softmax give."""
    return made.clone() if made.requires_grad else made


def differ(out: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    """Whether two attention outputs [B, H, L, d] are further apart than rounding puts them: a bool tensor, on the device."""
    # a few units in the last place of the largest value: two kernels may sum in another order
    return (out - live).abs().amax() > 16 * torch.finfo(live.dtype).eps * live.abs().amax()
