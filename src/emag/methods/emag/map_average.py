"""The running average of a block's attention map."""

import os
from dataclasses import dataclass
from typing import Literal

import torch

from ...core import Sdpa
from ...errors import Unsupported
from ...maths.attention import Attention, writable
from . import statistics, stored_map
from .average import Average
from .compat import Renorm
from .stored_map import MapFormat

Columns = Literal["all", "image", "text"]

FUSED = os.environ.get("EMAG_FUSED_MAP") == "1"  # has not been run on a GPU yet, and is therefore asked for


@dataclass
class MapAverage(Average):
    """Average of the map's image rows [B, H, image tokens, columns].

    Args:
        columns: "all" keys, those of the "image", or those of the "text".
        maps: how E is stored, a `MapFormat`.
        renorm: see `Compat`.
        text_scale: see `Compat`.
        stored: E, or None before the first update.
    """

    columns: Columns = "all"
    maps: MapFormat = "auto"
    renorm: Renorm = "row"
    text_scale: float = 1.0
    stored: stored_map.StoredMap | None = None

    @property
    def _changes(self) -> bool:
        return self.jitter > 0 or self.text_scale != 1

    @property
    def value(self) -> torch.Tensor | None:
        """E, or None before the first update."""
        return None if self.stored is None else self.stored.value

    def fits(self, call: Attention) -> bool:
        return self.stored is None or self.stored.codes.shape == self._shape(call)

    def observe(self, call: Attention) -> torch.Tensor:
        first = self.stored is None
        stored = self.stored = self.stored or self._empty(call)
        stored.updates += 1
        beta = 0 if first else self.beta  # the first time E = A
        total, differs = self._fused(call, beta) if self._fits(call) else self._chunked(call, beta)
        if first:
            return torch.zeros_like(total)
        self._note(differs)
        return total / (call.q.shape[1] * (call.image.stop - call.image.start))

    def _empty(self, call: Attention) -> stored_map.StoredMap:
        kind = stored_map.format_of(self.maps, str(self.dtype).removeprefix("torch."), call.q.device)
        return stored_map.empty(kind, self._shape(call), call.q.device)

    def _shape(self, call: Attention) -> tuple[int, ...]:
        kept, image = self._kept(call), call.image
        return (*call.q.shape[:2], image.stop - image.start, kept.stop - kept.start)

    def _fits(self, call: Attention) -> bool:
        """True where the fused kernel does what the chunks do."""
        known = self.statistic == "mae" and self.against == "old" and self.dtype == torch.float32
        return known and call.q.is_cuda and FUSED

    def _fused(self, call: Attention, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
        from .fused_map import observe  # imports Triton

        assert self.stored is not None
        return observe(call, self._kept(call), self.stored, beta)

    def _chunked(self, call: Attention, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum over rows of the statistic [B], and the samples [B] where A was not E; E takes in A."""
        found = [self._take(call.weights(chunk)[..., self._kept(call)], chunk, beta) for chunk in call.chunks()]
        totals, differs = zip(*found)
        return sum(totals, torch.zeros_like(totals[0])), torch.stack(differs).any(0)

    def _take(self, live: torch.Tensor, rows: slice, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
        measure = statistics.ON_MAPS[self.statistic]
        assert self.stored is not None
        if self.against == "old":
            return measure(self.stored.read(rows), live), self.stored.take(rows, live, beta)
        differs = self.stored.take(rows, live, beta)
        return measure(self.stored.read(rows), live), differs

    def output(self, call: Attention, sdpa: Sdpa, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = writable(sdpa(call.q))
        live = out[:, :, call.image]
        values = call.values()
        new = torch.cat([self._rows(call, chunk) @ values for chunk in call.chunks()], dim=2).to(out.dtype)
        new = torch.where(chosen.view(-1, 1, 1, 1), new, live)
        differs = self._effective(new, live)
        out[:, :, call.image] = new
        return out, differs

    def _rows(self, call: Attention, chunk: slice) -> torch.Tensor:
        """Rows of the map to use, over all keys: live and average blended, then rescaled."""
        kept = self._kept(call)
        average = self._jittered(chunk)[..., :kept.stop - kept.start]  # a pass of fewer rows may have less padding
        if kept.stop - kept.start == call.k.shape[2] and self.strength == 1:
            rows = average
        else:
            rows = writable(call.weights(chunk))
            rows[..., kept].lerp_(average, self.strength)
        return self._rescaled(rows, call)

    def _rescaled(self, rows: torch.Tensor, call: Attention) -> torch.Tensor:
        """The part of the text scaled, and rows brought to sum to 1 as `renorm` says; full rows do as they are."""
        if self.text_scale != 1:
            rows = rows.clone()
            rows[..., text_columns(call)] *= self.text_scale
        elif self._kept(call) == slice(0, call.k.shape[2]):
            return rows
        if self.renorm == "none":
            return rows
        if self.renorm == "row":
            return rows / rows.sum(-1, keepdim=True).clamp(min=statistics.TINY)
        # the text gets what the other columns leave of 1, its own proportions kept
        text = rows[..., text_columns(call)].clone()
        share = text.sum(-1, keepdim=True)
        left = (1 - (rows.sum(-1, keepdim=True) - share)).clamp(min=0)
        rows[..., text_columns(call)] = text * (left / share.clamp(min=statistics.TINY))
        return rows

    def _jittered(self, chunk: slice) -> torch.Tensor:
        assert self.stored is not None
        average = self.stored.read(chunk)
        if not self.jitter:
            return average
        # a factor exp(noise) keeps entries positive; then each row is brought back to the sum it had
        noisy = average * self._noise(self.stored.codes)[:, :, chunk].exp()
        return noisy * (average.sum(-1, keepdim=True) / noisy.sum(-1, keepdim=True).clamp(min=statistics.TINY))

    def _kept(self, call: Attention) -> slice:
        """Columns of the map that are averaged."""
        if self.columns == "text":
            return text_columns(call)
        return call.image if self.columns == "image" and call.has_text else slice(0, call.k.shape[2])


def text_columns(call: Attention) -> slice:
    """The keys of the text, before or behind those of the pictures. Raises `Unsupported` where there are none."""
    if not call.has_text:
        raise Unsupported("there is no text in this attention, and emag variant='text' and text_scale are about its part")
    return slice(0, call.image.start) if call.image.start else slice(call.pictures.stop, call.k.shape[2])
