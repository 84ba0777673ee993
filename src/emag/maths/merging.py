"""Token merging: alike tokens made one before a costly layer, and copied back behind it (ToMe, tomesd).

Tokens [batch, N, channels] are parted into D destinations and N - D sources. Each source is matched with the destination
it is most like; the best matched `count` sources are folded into theirs. So N - count tokens are left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch

from .vectors import widened

Likeness = Literal["features", "positions"]
"""By what tokens are alike: the cosine of their features, or how near their places are."""
CELL = 2  # side of the cells of which ToMe takes one token each as a destination
RATIO = 1 - 1 / CELL**2  # what can be folded at most, where a quarter of the tokens are destinations


@dataclass(frozen=True)
class Matching:
    """Which tokens of each row are folded into which.

    Args:
        kept: [batch, N - D - count] sources that stay, as places among the N tokens.
        folded: [batch, count] sources that are folded.
        into: [batch, count] for each of them, its destination as a place among `destinations`.
        destinations: [batch, D].
    """

    kept: torch.Tensor
    folded: torch.Tensor
    into: torch.Tensor
    destinations: torch.Tensor

    def repeated(self, rows: int) -> "Matching":
        """The same for a batch repeated until it has `rows` rows."""
        times = rows // len(self.kept)
        return self if times == 1 else self._each(lambda at: torch.cat([at] * times))

    @staticmethod
    def joined(parts: Sequence["Matching"]) -> "Matching":
        """The rows of several matchings of as many tokens, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return Matching(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Matching)))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Matching":
        return Matching(*(change(getattr(self, f.name)) for f in fields(self)))


def cosine_likeness(features: torch.Tensor, sources: torch.Tensor, destinations: torch.Tensor) -> torch.Tensor:
    """Cosine of each source [batch, S] with each destination [batch, D] of `features` [batch, N, C]; [batch, S, D]."""
    wide = widened(features)
    unit = wide / wide.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(wide.dtype).tiny)
    return tokens_at(unit, sources) @ tokens_at(unit, destinations).mT


def nearness(places: torch.Tensor, sources: torch.Tensor, destinations: torch.Tensor) -> torch.Tensor:
    """Minus the distance of places [batch, N, axes], as `cosine_likeness` otherwise."""
    return -torch.cdist(tokens_at(places, sources), tokens_at(places, destinations))


Similarity = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
SIMILARITIES: dict[Likeness, Similarity] = {"features": cosine_likeness, "positions": nearness}


def match(features: torch.Tensor, destinations: torch.Tensor, count: int, first: torch.Tensor | None = None,
          similarity: Similarity = cosine_likeness) -> Matching:
    """The matching that folds `count` tokens of each row.

    features: [batch, N, C], what likeness is judged by. destinations: [batch, D] places, distinct in each row; D + count
    is at most N. first: bool [batch, N], tokens that are folded before all others, best matched ones first among them.
    """
    batch, tokens = features.shape[:2]
    taken_up = torch.zeros(batch, tokens, dtype=torch.bool, device=features.device).scatter_(1, destinations, True)
    # a stable sort of "is a destination" puts the sources in front, in their own order
    sources = taken_up.int().argsort(dim=1, stable=True)[:, :tokens - destinations.shape[1]]
    best, into = similarity(features, sources, destinations).max(-1)
    order = best.argsort(dim=1, descending=True, stable=True)
    if first is not None:
        # sorted by likeness already; a stable sort by the other key keeps that order inside each half
        late = (~first.gather(1, sources)).gather(1, order)
        order = order.gather(1, late.int().argsort(dim=1, stable=True))
    ordered, into = sources.gather(1, order), into.gather(1, order)
    return Matching(ordered[:, count:], ordered[:, :count], into[:, :count], destinations)


def merge(x: torch.Tensor, matching: Matching, average: bool = True) -> torch.Tensor:
    """Tokens [batch, N, C] with the folded ones gone: kept sources, then destinations, [batch, N - count, C].

    average: a destination becomes the mean of itself and of what is folded into it; else it stays, and those are dropped.
    """
    kept, into = tokens_at(x, matching.kept), tokens_at(x, matching.destinations)
    if average and matching.folded.shape[1]:
        wide, at = widened(into), matching.into[..., None].expand(-1, -1, x.shape[-1])
        into = wide.scatter_reduce(1, at, tokens_at(x, matching.folded).to(wide.dtype), "mean").to(x.dtype)
    return torch.cat([kept, into], 1)


def unmerge(y: torch.Tensor, matching: Matching) -> torch.Tensor:
    """Tokens of merged ones [batch, N - count, C]: a folded token is a copy of its destination, [batch, N, C]."""
    kept, into = y.split([matching.kept.shape[1], matching.destinations.shape[1]], 1)
    parts = ((matching.kept, kept), (matching.folded, tokens_at(into, matching.into)), (matching.destinations, into))
    whole = y.new_empty(len(y), sum(at.shape[1] for at, _ in parts), y.shape[-1])
    for at, tokens in parts:
        whole.scatter_(1, at[..., None].expand_as(tokens), tokens)
    return whole


def tokens_at(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The tokens of x [batch, N, C] at `places` [batch, n]."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def by_cells(draws: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """ToMe's destinations: of each 2 x 2 cell of the grid the token with the largest of `draws` [batch, N]; [batch, D].

    An odd row or column at the end has no cell; its tokens are sources.
    """
    down, across = rows // CELL, columns // CELL
    grid = draws.view(-1, rows, columns)[:, :down * CELL, :across * CELL]
    cells = grid.unflatten(2, (across, CELL)).unflatten(1, (down, CELL)).transpose(2, 3).flatten(3)
    best = cells.argmax(-1)  # [batch, down, across]: which of a cell's four, row by row
    row = torch.arange(down, device=draws.device)[:, None] * CELL + best // CELL
    column = torch.arange(across, device=draws.device) * CELL + best % CELL
    return (row * columns + column).flatten(1)


def pool_of(importance: torch.Tensor, size: int) -> torch.Tensor:
    """True at the `size` most important tokens of each row of `importance` [batch, N]; of equal ones the first."""
    rank = importance.argsort(dim=1, descending=True, stable=True)[:, :size]
    return torch.zeros_like(importance, dtype=torch.bool).scatter_(1, rank, True)


def drawn_from(pool: torch.Tensor, draws: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` tokens of a pool (bool [batch, N]) with the largest of `draws` [batch, N]; [batch, count]."""
    return draws.masked_fill(~pool, float("-inf")).topk(count, 1).indices
