"""The running average of a block's image queries."""

from dataclasses import dataclass

import torch

from ...core import Sdpa
from ...maths.attention import Attention
from . import statistics, stored_map
from .average import Average


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
