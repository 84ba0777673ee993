"""What S-CFG observes: the maps of the text tokens in the clean pass, joint with the image's or across."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...core import Perturbation, Rows, State
from ...errors import BadValue, NoEffect, Unsupported
from ...maths.attention import Attention
from ...maths.streams import Streams
from .sides import sides
from .token_maps import Cells, own_map, refined, resized, text_map, token_maps

NO_IMAGE = "s-cfg is for images; this run has latents of another kind"
NO_TEXT = ("s-cfg needs text tokens in the attention, as SD3 and Flux have them, or with cross=True a cross-attention "
           "beside an attention with a map, as Stable Diffusion and PixArt have it; this network's blocks have neither here")


@dataclass(frozen=True)
class Observing(Perturbation):
    """A branch that only looks at the attention of `layers`, on all rows of the clean pass."""

    layers: tuple[int, ...]

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.layers

    @property
    def sees_null(self) -> bool:
        return True

    @property
    def observes(self) -> bool:
        return True


@dataclass(frozen=True)
class OwnMaps(Observing):
    """An observer: which image cells attend to which, from the self-attention of `layers`, for `TokenMaps` across."""

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "OwnWatcher":
        return OwnWatcher()


@dataclass(frozen=True)
class TokenMaps(Observing):
    """An observer: for each text token its map over the image, from the attention of the blocks in `layers`.

    across: the text is in a cross-attention of its own, and the image's map in the self-attention before it.
    """

    bos: int = 0
    across: bool = False

    @property
    def cross(self) -> bool:
        return self.across

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "Watcher":
        return Watcher(self.bos, OwnMaps(self.layers) if self.across else None)


class Gridded(State):
    """One that watches every step, and knows the cells of its images."""

    @property
    def cells(self) -> Cells:
        """The cells of this run's images."""
        if len(self.grid) != 2:
            raise Unsupported(NO_IMAGE)
        return Cells(*self.grid)

    @property
    def watches(self) -> bool:
        return True

    def cells_of(self, call: Attention) -> Cells:
        """The cells of a block, whose grid may be coarser than the latents'."""
        tokens, whole = call.image.stop - call.image.start, self.cells
        grid = self.grid_of(tokens)
        if tokens != math.prod(grid):
            raise Unsupported(f"s-cfg found {tokens} image tokens where the latents have {whole.rows * whole.columns}: it "
                              "takes no further images")
        return Cells(*grid)


class OwnWatcher(Gridded):
    """The latest self-attention of each block, by side, [rows, cells, cells]; until the text's map of the block takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[int, str], torch.Tensor] = {}

    def begin(self, index: int) -> None:
        super().begin(index)
        self.held.clear()

    def watch(self, block: int, call: Attention, rows: Rows) -> None:
        for side, part in sides(rows):
            self.held[block, side] = own_map(call.rows(part), self.cells_of(call))


class Watcher(Gridded):
    """The maps of one step by branch, one per block, each [rows, text tokens, cell rows, cell columns]."""

    def __init__(self, bos: int = 0, own: OwnMaps | None = None) -> None:
        super().__init__()
        self.bos, self.own = bos, own
        self.beside: OwnWatcher | None = None
        self.found: dict[str, list[torch.Tensor]] = {}

    def meet(self, states: Mapping[Any, State]) -> None:
        found = states[self.own] if self.own else None
        assert found is None or isinstance(found, OwnWatcher)
        self.beside = found

    def begin(self, index: int) -> None:
        super().begin(index)
        self.found = {}

    @property
    def seen(self) -> "Watcher":
        return self

    def watch(self, block: int, call: Attention, rows: Rows) -> None:
        if not call.has_text:
            raise Unsupported(NO_TEXT)
        pictures = 0 if call.cross else call.pictures.stop - call.pictures.start
        check_bos(self.bos, call.k.shape[2] - pictures)
        for branch, part in sides(rows):
            maps = self._maps(block, branch, call.rows(part))
            self.found.setdefault(branch, []).append(resized(maps, self.cells))

    def _maps(self, block: int, branch: str, call: Attention) -> torch.Tensor:
        cells = self.cells_of(call)
        if self.beside is None:
            return token_maps(call, cells)
        own = self.beside.held.pop((block, branch), None)
        if own is None:
            raise NoEffect(f"s-cfg saw the text's attention of block {block} without the image's before it: name other "
                           "layers")
        return refined(own, text_map(call, cells), cells)


def check_bos(bos: int, count: int) -> None:
    """Raise `BadValue` where there is no text token `bos`."""
    if not -count <= bos < count:
        raise BadValue(f"s-cfg bos is a position among {count} text tokens, got {bos}")
