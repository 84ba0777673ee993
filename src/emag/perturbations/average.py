"""The running averages of one block: of its image queries, or of its attention map. EMAG's state."""

from dataclasses import dataclass

import torch

from ..attention import Attention
from ..streams import Streams
from . import statistics
from .state import Sdpa


@dataclass
class Average:
    """Settings shared by both kinds; `value` is E, or None before the first update.

    `moved` [B]: samples whose live attention ever differed from E; elsewhere only rounding sets the two apart.
    """

    beta: float
    strength: float
    statistic: str
    against: str  # "old" or "updated": the average the statistic is taken against
    dtype: torch.dtype
    jitter: float
    name: str  # of the random streams
    streams: Streams
    value: torch.Tensor | None = None
    moved: torch.Tensor | None = None

    def observe(self, call: Attention) -> torch.Tensor:
        """Take in the live call; statistic per sample [B], 0 at the first call."""
        raise NotImplementedError

    def output(self, call: Attention, sdpa: Sdpa, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention output with the average in the `chosen` rows [B] bool, and whether anything differed."""
        raise NotImplementedError

    def _update(self, live: torch.Tensor, part: slice) -> None:
        """E <- beta E + (1 - beta) A on some query rows, in the storage dtype (half-precision: multiply, then add)."""
        assert self.value is not None
        old = self.value[:, :, part]
        differs = (old != live.to(self.dtype)).flatten(1).any(1)
        self.moved = differs if self.moved is None else self.moved | differs
        if self.dtype == torch.float32:
            old.lerp_(live, 1 - self.beta)
        else:
            old.mul_(self.beta).add_(live.to(self.dtype), alpha=1 - self.beta)

    def _effective(self, new: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
        """Whether putting `new` for `live` [B, ...] was more than rounding."""
        differs = (new != live).flatten(1).any(1)
        return differs.any() if self.jitter or self.moved is None else (differs & self.moved).any()

    def _noise(self, like: torch.Tensor) -> torch.Tensor:
        return self.jitter * self.streams.normal(self.name, like)


class QueryAverage(Average):
    """Average of the image queries after norm and rotary: [B, H, image tokens, d]. Fused attention is kept."""

    def observe(self, call: Attention) -> torch.Tensor:
        live = call.image_queries()
        if self.value is None:
            self.value = live.to(self.dtype, copy=True)
            return torch.zeros(live.shape[0], device=live.device)
        live = live.float()
        old = None if self.against == "updated" else self._statistic(call, live)
        self._update(live, slice(None))
        return self._statistic(call, live) if old is None else old

    def _statistic(self, call: Attention, live: torch.Tensor) -> torch.Tensor:
        assert self.value is not None
        rows = live.shape[1] * live.shape[2]
        average = self.value.float()
        if self.statistic in ("kl", "entropy"):
            measure = statistics.ON_MAPS[self.statistic]
            parts = [measure(call.weights(c, average), call.weights(c)) for c in call.chunks()]
            return torch.stack(parts).sum(0) / rows
        if self.statistic == "cosine":
            return statistics.cosine(average, live) / rows
        moved = statistics.mae(average, live) / rows
        # what acts is the change of the logits, so |E - Q| counts with the size of the keys it meets
        return moved * call.key_size() if self.statistic == "logits" else moved

    def output(self, call: Attention, sdpa: Sdpa, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.value is not None
        live, average = call.image_queries(), self.value
        if self.jitter:
            rms = average.float().square().mean((1, 2, 3), keepdim=True).sqrt()
            average = average + rms * self._noise(average)
        mixed = live.float().lerp(average.float(), self.strength).to(live.dtype)
        mixed = torch.where(chosen.view(-1, 1, 1, 1), mixed, live)
        q = call.q.clone()
        q[:, :, call.image] = mixed
        return sdpa(q), self._effective(mixed, live)


@dataclass
class MapAverage(Average):
    """Average of the map's image rows [B, H, image tokens, columns]; columns are all keys, or the image keys."""

    image_keys: bool = False

    def observe(self, call: Attention) -> torch.Tensor:
        first = self.value is None
        total = torch.zeros(call.q.shape[0], device=call.q.device)
        for chunk in call.chunks():
            live = self._columns(call, call.weights(chunk))
            if self.value is None:
                tokens = call.image.stop - call.image.start
                self.value = live.new_empty(*live.shape[:2], tokens, live.shape[-1], dtype=self.dtype)
            if first:
                self.value[:, :, chunk] = live
            else:
                total += self._take(live, chunk)
        return total / (call.q.shape[1] * (call.image.stop - call.image.start))

    def _take(self, live: torch.Tensor, chunk: slice) -> torch.Tensor:
        measure = statistics.ON_MAPS[self.statistic]
        assert self.value is not None
        if self.against == "old":
            statistic = measure(self.value[:, :, chunk].float(), live)
            self._update(live, chunk)
            return statistic
        self._update(live, chunk)
        return measure(self.value[:, :, chunk].float(), live)

    def output(self, call: Attention, sdpa: Sdpa, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = sdpa(call.q)
        live = out[:, :, call.image]
        values = call.values()
        new = torch.cat([self._rows(call, chunk) @ values for chunk in call.chunks()], dim=2).to(out.dtype)
        new = torch.where(chosen.view(-1, 1, 1, 1), new, live)
        differs = self._effective(new, live)
        out[:, :, call.image] = new
        return out, differs

    def _rows(self, call: Attention, chunk: slice) -> torch.Tensor:
        """Rows of the map to use, over all keys: live and average blended, rows summing to 1 as the live ones do."""
        average = self._jittered(chunk)[..., :call.k.shape[2]]  # a pass of fewer rows may have less padding
        if self._all_columns(call):
            return average if self.strength == 1 else call.weights(chunk).lerp_(average, self.strength)
        rows = call.weights(chunk)
        columns = rows[..., call.image]
        columns.lerp_(average, self.strength)
        return rows / rows.sum(-1, keepdim=True)

    def _jittered(self, chunk: slice) -> torch.Tensor:
        assert self.value is not None
        average = self.value[:, :, chunk].float()
        if not self.jitter:
            return average
        noisy = average * self._noise(self.value)[:, :, chunk].exp()
        return noisy * (average.sum(-1, keepdim=True) / noisy.sum(-1, keepdim=True))

    def _all_columns(self, call: Attention) -> bool:
        return not (self.image_keys and call.has_text)

    def _columns(self, call: Attention, rows: torch.Tensor) -> torch.Tensor:
        return rows if self._all_columns(call) else rows[..., call.image]
