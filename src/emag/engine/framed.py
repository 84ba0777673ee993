"""Rows that are frames: a network that sees each frame of a video in a row of its own, frames of a sample one after another.

In attention the frames of a sample are seen as further heads, [samples, frames * heads, tokens, d]: heads attend apart from
each other, and so do frames. So a state has one row for each sample, and its means over heads are means over frames as well.
"""

from dataclasses import dataclass, replace

import torch

from ..maths.attention import Attention
from .seam import Handler, Live


@dataclass(frozen=True)
class Frames:
    """How many rows a sample has."""

    count: int

    def rows(self, samples: slice) -> slice:
        """The rows of some samples."""
        return slice(*(None if at is None else at * self.count for at in (samples.start, samples.stop)))

    def opened(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [samples * frames, tokens, d] as [samples, frames * tokens, d]."""
        return x.unflatten(0, (-1, self.count)).flatten(1, 2)

    def closed(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `opened`; also of heads, [samples, frames * heads, ...]."""
        return x.unflatten(1, (self.count, -1)).flatten(0, 1)

    def around(self, handle: Handler) -> Handler:
        """`handle`, given calls in which frames are heads."""
        def handler(call: Attention, live: Live) -> torch.Tensor:
            view = replace(call, q=self.opened(call.q), k=self.opened(call.k), v=self.opened(call.v),
                           mask=self._mask(call), frames=self.count)

            def computed(part: Attention) -> torch.Tensor:
                if part is view:  # untouched: the very call of the network, bit for bit
                    return self.opened(live(call))
                mask = None if part.mask is None else self.closed(part.mask)
                return self.opened(live(replace(part, q=self.closed(part.q), k=self.closed(part.k), v=self.closed(part.v),
                                                mask=mask, frames=1)))

            return self.closed(handle(view, computed))

        return handler

    def _mask(self, call: Attention) -> torch.Tensor | None:
        if call.mask is None:
            return None
        mask = call.mask[(None,) * (4 - call.mask.ndim)]
        return self.opened(mask.expand(call.q.shape[0], call.q.shape[1], *mask.shape[2:]))
