"""The running averages of one block: of its image queries, or of its attention map. EMAG's state."""

import os
from dataclasses import dataclass
from typing import Literal

import torch

from ...core import Sdpa
from ...errors import Unsupported
from ...maths.attention import Attention, writable
from ...maths.streams import Streams
from . import statistics, stored_map
from .compat import Renorm, StatAgainst
from .stored_map import MapFormat

Columns = Literal["all", "image", "text"]

FUSED = os.environ.get("EMAG_FUSED_MAP") == "1"  # has not been run on a GPU yet, and is therefore asked for


@dataclass
class Average:
    """The running average E of one block, and the statistic that is taken against it: what both kinds share.

    Args:
        beta: decay of E per update, in [0, 1].
        strength: share of E in what the weak pass uses, in [0, 1].
        statistic: how far the live attention is from E, see `EMAG`; "auto" is spelled out by now.
        against: "old" or "updated": the average the statistic is taken against.
        dtype: of what is stored.
        jitter: size of seeded noise on E, 0 for none.
        name: of the random streams.
        streams: the random streams of the samples.
        moved: samples [B] whose live attention ever differed from E; elsewhere only rounding sets the two apart. None
            before the second update.
    """

    beta: float
    strength: float
    statistic: str
    against: StatAgainst  # "old" or "updated": the average the statistic is taken against
    dtype: torch.dtype
    jitter: float
    name: str  # of the random streams
    streams: Streams
    moved: torch.Tensor | None = None

    def fits(self, call: Attention) -> bool:
        """Whether a live call is as large as those before it; a block may come to work on another grid within a run."""
        raise NotImplementedError

    def observe(self, call: Attention) -> torch.Tensor:
        """Take in the live call, which `fits`; statistic per sample [B], 0 at the first call."""
        raise NotImplementedError

    def output(self, call: Attention, sdpa: Sdpa, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention output with the average in the `chosen` rows [B] bool, and whether anything differed."""
        raise NotImplementedError

    def _note(self, differs: torch.Tensor) -> None:
        self.moved = differs if self.moved is None else self.moved | differs

    def _effective(self, new: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
        """Whether putting `new` for `live` [B, ...] was more than rounding."""
        differs = (new != live).flatten(1).any(1)
        return differs.any() if self._changes or self.moved is None else (differs & self.moved).any()

    @property
    def _changes(self) -> bool:
        """True where the attention is another even if the average is the live one."""
        return self.jitter > 0

    def _noise(self, like: torch.Tensor) -> torch.Tensor:
        return self.jitter * self.streams.normal(self.name, like)


@dataclass
class QueryAverage(Average):
    """Average of the image queries after norm and rotary: [B, H, image tokens, d]. Fused attention is kept.

    Args:
        value: E, or None before the first update.
    """

    value: torch.Tensor | None = None

    def fits(self, call: Attention) -> bool:
        return self.value is None or self.value.shape == call.image_queries().shape

    def observe(self, call: Attention) -> torch.Tensor:
        live = call.image_queries()
        if self.value is None:
            self.value = live.to(self.dtype, copy=True)
            return torch.zeros(live.shape[0], device=live.device)
        live = live.float()
        old = None if self.against == "updated" else self._statistic(call, live)
        self._note(stored_map.update_stored(self.value, live, self.beta))
        return self._statistic(call, live) if old is None else old

    def _statistic(self, call: Attention, live: torch.Tensor) -> torch.Tensor:
        assert self.value is not None
        rows = live.shape[1] * live.shape[2]
        average = self.value.float()
        # these compare rows of a map: that of the averaged queries with the live one, over the live keys
        if self.statistic in ("kl", "entropy"):
            measure = statistics.ON_MAPS[self.statistic]
            parts = [measure(call.weights(c, average), call.weights(c)) for c in call.chunks()]
            return call.over_heads(torch.stack(parts).sum(0) / rows)
        if self.statistic == "cosine":
            return call.over_heads(statistics.cosine(average, live) / rows)
        moved = call.over_heads(statistics.mae(average, live) / rows)
        # what acts is the change of the logits, so |E - Q| counts with the size of the keys it meets
        return moved * call.key_size() if self.statistic == "logits" else moved

    def output(self, call: Attention, sdpa: Sdpa, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.value is not None
        live, average = call.image_queries(), self.value
        if self.jitter:
            # queries have any size: noise is in units of their root mean square
            rms = average.float().square().mean((1, 2, 3), keepdim=True).sqrt()
            average = average + rms * self._noise(average)
        mixed = live.float().lerp(average.float(), self.strength).to(live.dtype)
        # each sample is perturbed in its own picked block; a select on the device, for which nobody waits
        mixed = torch.where(chosen.view(-1, 1, 1, 1), mixed, live)
        q = call.q.clone()
        q[:, :, call.image] = mixed
        return sdpa(q), self._effective(mixed, live)


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
