"""Where in the image each text token is, from attention: maps over cells of image tokens."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...maths.attention import Attention
from ...maths.pyramid import blur

SIDE = 16  # cells along the longer side of the image, at most
POWERS = 4
_EDGE = math.exp(-1 / (2 * 0.5**2))
GAUSSIAN = (_EDGE / (1 + 2 * _EDGE), 1 / (1 + 2 * _EDGE), _EDGE / (1 + 2 * _EDGE))  # standard deviation 0.5, 3 taps


@dataclass(frozen=True)
class Cells:
    """Squares of image tokens, at most 16 along a side. rows, columns: of tokens."""

    rows: int
    columns: int

    @property
    def side(self) -> int:
        """Side of a cell in tokens."""
        return -(-max(self.rows, self.columns) // SIDE)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.rows // self.side), -(-self.columns // self.side)

    def members(self, zoom: int = 1, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Which cell each row and column is in, 1 or 0: [height, cells] and [width, cells], where a token is `zoom` long."""
        cell = self.side * zoom
        at = [torch.arange(n * zoom, device=device) // cell for n in (self.rows, self.columns)]
        rows, columns = ((place[:, None] == torch.arange(-(-len(place) // cell), device=device)).float() for place in at)
        return rows, columns


def token_maps(call: Attention, cells: Cells) -> torch.Tensor:
    """Maps of the text tokens over the cells, [rows, text tokens, cell rows, cell columns], fp32, from joint attention.

    The softmax over all keys is split into one over the image, S, and one over the text, C; both averaged over heads and
    over the tokens of each cell.
    """
    member = _members(call, cells)
    both = _over_cells(call, member, lambda weights: torch.cat([share(weights[..., call.image]) @ member,
                                                                share(_words(call, weights))], -1))
    return refined(both[..., :member.shape[1]], both[..., member.shape[1]:], cells)


def own_map(call: Attention, cells: Cells) -> torch.Tensor:
    """S [rows, cells, cells]: how much each cell attends to each, of what it attends to in the image."""
    member = _members(call, cells)
    return _over_cells(call, member, lambda weights: share(weights[..., call.image]) @ member)


def text_map(call: Attention, cells: Cells) -> torch.Tensor:
    """C [rows, cells, text tokens]: how much each cell attends to each token, of what it attends to in the text."""
    return _over_cells(call, _members(call, cells), lambda weights: share(_words(call, weights)))


def refined(own: torch.Tensor, text: torch.Tensor, cells: Cells) -> torch.Tensor:
    """(S + S^2 + S^3 + S^4) C / 4, blurred, as maps [rows, text tokens, cell rows, cell columns]."""
    # Horner: S (C + S (C + S (C + S C))) is the sum of the four powers
    total = torch.zeros_like(text)
    for _ in range(POWERS):
        total = own @ (text + total)
    return blur((total / POWERS).mT.unflatten(2, cells.shape), GAUSSIAN)


def resized(maps: torch.Tensor, cells: Cells) -> torch.Tensor:
    """Maps of a coarser block over the cells of the image."""
    if maps.shape[2:] == cells.shape:
        return maps
    return F.interpolate(maps, size=cells.shape, mode="bilinear")


def _members(call: Attention, cells: Cells) -> torch.Tensor:
    """Which cell each token is in, 1 or 0, [tokens, cells]."""
    rows, columns = cells.members(device=call.q.device)
    return (rows[:, None, :, None] * columns[None, :, None, :]).flatten(2).flatten(0, 1)


def _words(call: Attention, weights: torch.Tensor) -> torch.Tensor:
    """The columns of the text."""
    if call.cross:
        return weights
    return torch.cat([weights[..., :call.pictures.start], weights[..., call.pictures.stop:]], -1)


def _over_cells(call: Attention, member: torch.Tensor, part: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`part` of the softmax rows of the image queries, averaged over the tokens of each cell."""
    even = member / member.sum(0)
    parts = (even[chunk].T @ part(call.weights(chunk)) for chunk in call.chunks())
    return sum(parts, torch.zeros((), device=call.q.device))


def share(part: torch.Tensor) -> torch.Tensor:
    """Columns of softmax rows [B, H, queries, keys] as rows of their own, heads averaged."""
    tiny = torch.finfo(part.dtype).tiny
    return (part / part.sum(-1, keepdim=True).clamp(min=tiny)).mean(1)
