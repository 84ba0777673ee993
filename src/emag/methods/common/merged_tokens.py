"""Attention over merged tokens: which are merged in each block, and what comes back. What token merging does inside."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from ...core import Perturbation, Rows, Side, State, Tokens
from ...errors import BadValue, Unsupported
from ...maths import merging
from ...maths.merging import Likeness
from ...maths.streams import Streams
from .sides import sides

Early = Literal["cells", "map", "whole"]
SHARE = 0.25  # of all tokens, destinations drawn from the pool
NO_MAP = ("token-merge ranks tokens by |c - u| of the step before, and none of this run's steps gave one so far: give the "
          "pipeline a guidance scale above 1, or name another start")


@dataclass(frozen=True)
class Merged(Perturbation):
    """Attention of `layers` over merged tokens, in every pass."""

    layers: tuple[int, ...]
    ratio: float
    pool: float
    start_at: int
    early: Early
    likeness: Likeness
    downsample: int
    cross: bool = False

    @property
    def around_cross(self) -> bool:
        return self.cross

    @property
    def around(self) -> tuple[int, ...]:
        return self.layers

    @property
    def changes(self) -> tuple[int, ...]:
        return self.layers  # what enters a block says which tokens are alike; it is left as it is

    @property
    def strong(self) -> bool:
        return True

    def check(self, sigmas: tuple[float, ...]) -> None:
        """Raise `BadValue` where no step merges."""
        first = {"cells": 0, "map": 1, "whole": self.start_at}[self.early]
        if first >= len(sigmas):
            raise BadValue(f"token-merge begins at step {first}, and the run has {len(sigmas)} steps: name an earlier start")

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "MergedState":
        return MergedState(self, streams)


class MergedState(State):
    """The matchings of one step, by block and side, and the importance [samples, height, width] of the step before."""

    proves = True

    def __init__(self, spec: Merged, streams: Streams):
        super().__init__()
        self.spec, self.streams = spec, streams
        self.importance: torch.Tensor | None = None
        self.entered: dict[int, torch.Tensor] = {}
        self.held: dict[tuple[int, Side], merging.Matching] = {}
        self.index = self.finest = 0  # finest: image tokens of the first of its blocks

    @property
    def seen(self) -> "MergedState":
        return self

    def begin(self, index: int) -> None:
        super().begin(index)
        self.index = index
        self.held.clear()

    @property
    def way(self) -> Early | Literal["merge"]:
        """What is done at this step: merged by importance, or in the early steps dropped by cells or by importance."""
        if self.index >= self.spec.start_at:
            return "merge"
        return "whole" if self.spec.early == "map" and self.index == 0 else self.spec.early

    def enter(self, block: int, streams: Tokens, rows: Rows) -> Tokens:
        self.entered[block] = streams["hidden_states"]
        return streams

    def around(self, block: int, tokens: torch.Tensor, run: Callable[[torch.Tensor], Any], rows: Rows) -> Any:
        entered, count = self.entered[block], int(tokens.shape[1] * self.spec.ratio)
        self.finest = self.finest or tokens.shape[1]
        small = tokens.shape[1] * self.spec.downsample**2 < self.finest
        if self.way == "whole" or small or not count:
            return run(tokens)
        parts = [self._matching(block, side, entered[part], count) for side, part in sides(rows)]
        matching = merging.Matching.joined(parts)
        merged = merging.merge(tokens, matching, average=self.way == "merge")
        if self.differed is None:
            self.note((merging.unmerge(merged, matching) != tokens).any())
        out = run(merged)
        if isinstance(out, tuple):  # the image's tokens, then the text's
            return (merging.unmerge(out[0], matching), *out[1:])
        return merging.unmerge(out, matching)

    def _matching(self, block: int, side: Side, entered: torch.Tensor, count: int) -> merging.Matching:
        """That of the clean pass, which weak passes of the step take over: they differ by their perturbation alone."""
        if (block, side) not in self.held:
            self.held[block, side] = self._matched(entered, count)
        return self.held[block, side].repeated(len(entered))

    def _matched(self, entered: torch.Tensor, count: int) -> merging.Matching:
        tokens, grid = entered.shape[1], self.grid_of(entered.shape[1])
        if math.prod(grid) != tokens:
            raise Unsupported(f"token-merge found {tokens} image tokens in a block, where the latents have {self.grid}: it "
                              "takes grids of tokens that halve from stage to stage")
        # both sides, and all blocks of a size, have the same destinations
        draws = self.streams.normal("token-merge", entered[..., 0].float())
        features, likeness = entered, merging.SIMILARITIES[self.spec.likeness]
        if self.spec.likeness == "positions":
            at = torch.cartesian_prod(*(torch.arange(float(side), device=entered.device) for side in grid))
            features = at.expand(len(entered), -1, -1)
        if self.way == "cells":
            return merging.match(features, merging.by_cells(draws, *grid), count, similarity=likeness)
        pool = merging.pool_of(self._importance(grid), self._pool_size(tokens, count))
        destinations = merging.drawn_from(pool, draws, int(SHARE * tokens))
        return merging.match(features, destinations, count, first=~pool, similarity=likeness)

    def _pool_size(self, tokens: int, count: int) -> int:
        return max(int(SHARE * tokens), min(tokens, int((tokens - count) * self.spec.pool)))

    def _importance(self, grid: tuple[int, ...]) -> torch.Tensor:
        """That of each token of a grid, [samples, tokens]."""
        if self.importance is None:
            raise Unsupported(NO_MAP)
        return F.adaptive_avg_pool2d(self.importance[:, None], grid)[:, 0].flatten(1)
