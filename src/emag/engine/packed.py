"""Rows in which the image tokens follow the text of that row without its padding, seen as text, padding, image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..maths.attention import Attention
from .seam import Handler, Live


@dataclass(frozen=True)
class Packing:
    """Where tokens sit in rows [text, image, padding] of different text lengths.

    order [batch, length]: for each token as branches see it, its place in the row. back: the inverse.
    """

    order: torch.Tensor
    back: torch.Tensor

    @classmethod
    def of(cls, text: Sequence[int], image: int, device: torch.device) -> "Packing | None":
        """The packing of rows with `text` text tokens each; None where all have as many, and nothing needs to move."""
        if len(set(text)) == 1:
            return None
        longest = max(text)
        ends = torch.tensor(list(text), device=device)[:, None]
        before, picture = torch.arange(longest, device=device), torch.arange(image, device=device)
        # seen: text, padding, image. A row holds text, image, padding: its padding is found behind the image, its image
        # behind its own text
        order = torch.cat([torch.where(before < ends, before, before + image), ends + picture], 1)
        return cls(order, order.argsort(1))

    def opened(self, x: torch.Tensor, dim: int = 1) -> torch.Tensor:
        """Tokens along `dim`, the image ones of all rows at its end."""
        return _taken(x, self.order, dim)

    def closed(self, x: torch.Tensor, dim: int = 1) -> torch.Tensor:
        """The inverse of `opened`."""
        return _taken(x, self.back, dim)

    def around(self, handle: Handler) -> Handler:
        """`handle`, given calls in which the image tokens of all rows sit at the end."""
        def handler(call: Attention, live: Live) -> torch.Tensor:
            mask = None if call.mask is None else self.opened(call.mask, 3)
            view = replace(call, q=self.opened(call.q, 2), k=self.opened(call.k, 2), v=self.opened(call.v, 2), mask=mask)

            def computed(part: Attention) -> torch.Tensor:
                if part is view:  # untouched: the very call of the network, bit for bit
                    return self.opened(live(call), 2)
                return live(part)

            return self.closed(handle(view, computed), 2)

        return handler


def _taken(x: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    """x [batch, ..] with the tokens along `dim` in the order of `index` [batch, tokens]."""
    shape = [1] * x.ndim
    shape[0], shape[dim] = index.shape
    return x.gather(dim, index.view(shape).expand(*x.shape[:dim], index.shape[1], *x.shape[dim + 1:]))
