"""Where in the image each text token is, read off the joint attention of the clean pass: what S-CFG observes."""

import math
from dataclasses import dataclass

import torch

from ...core import COND, UNCOND, Perturbation, Rows, State
from ...errors import BadValue, Unsupported
from ...maths.attention import Attention
from ...maths.pyramid import blur
from ...maths.streams import Streams

SIDE = 16  # cells along the longer side of the image, at most
POWERS = 4
_EDGE = math.exp(-1 / (2 * 0.5**2))
GAUSSIAN = (_EDGE / (1 + 2 * _EDGE), 1 / (1 + 2 * _EDGE), _EDGE / (1 + 2 * _EDGE))  # standard deviation 0.5, 3 taps


NO_IMAGE = "s-cfg is for images; this run has latents of another kind"
NO_TEXT = ("s-cfg needs text tokens in the attention, as SD3 and Flux have them; this network's blocks attend to image "
           "tokens alone")


@dataclass(frozen=True)
class Cells:
    """Squares of image tokens, at most 16 along a side. rows, columns: of tokens."""

    rows: int
    columns: int

    @property
    def side(self) -> int:
        """Side of a cell in tokens."""
        return -(-max(self.rows, self.columns) // SIDE)

    def members(self, zoom: int = 1, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Which cell each row and column is in, 1 or 0: [height, cells] and [width, cells], where a token is `zoom` long."""
        cell = self.side * zoom
        at = [torch.arange(n * zoom, device=device) // cell for n in (self.rows, self.columns)]
        rows, columns = ((place[:, None] == torch.arange(-(-len(place) // cell), device=device)).float() for place in at)
        return rows, columns


@dataclass(frozen=True)
class TokenMaps(Perturbation):
    """An observer: for each text token its map over the image, from the attention of the blocks in `layers`."""

    layers: tuple[int, ...]
    bos: int = 0

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.layers

    @property
    def sees_null(self) -> bool:
        return True

    @property
    def observes(self) -> bool:
        return True

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "Watcher":
        return Watcher(self.bos)


class Watcher(State):
    """The maps of one step by branch, one per block, each [rows, text tokens, cell rows, cell columns]."""

    def __init__(self, bos: int = 0) -> None:
        super().__init__()
        self.bos = bos
        self.found: dict[str, list[torch.Tensor]] = {}

    @property
    def cells(self) -> Cells:
        """The cells of this run's images."""
        if len(self.grid) != 2:
            raise Unsupported(NO_IMAGE)
        return Cells(*self.grid)

    def begin(self, index: int) -> None:
        super().begin(index)
        self.found = {}

    @property
    def watches(self) -> bool:
        return True

    @property
    def seen(self) -> "Watcher":
        return self

    def watch(self, block: int, call: Attention, rows: Rows) -> None:
        if not call.has_text:
            raise Unsupported(NO_TEXT)
        check_bos(self.bos, call.k.shape[2] - (call.pictures.stop - call.pictures.start))
        if call.image.stop - call.image.start != math.prod(self.grid):
            raise Unsupported(f"s-cfg found {call.image.stop - call.image.start} image tokens where the latents have "
                              f"{math.prod(self.grid)}: it takes no further images")
        for branch, part in ((COND, rows.cond), (UNCOND, rows.uncond)):
            if part is not None and part.start < part.stop:
                self.found.setdefault(branch, []).append(token_maps(call.rows(part), self.cells))


def check_bos(bos: int, count: int) -> None:
    """Raise `BadValue` where there is no text token `bos`."""
    if not -count <= bos < count:
        raise BadValue(f"s-cfg bos is a position among {count} text tokens, got {bos}")


def token_maps(call: Attention, cells: Cells) -> torch.Tensor:
    """Maps of the text tokens over the cells, [rows, text tokens, cell rows, cell columns], fp32.

    The softmax over all keys is split into one over the image, S, and one over the text, C; both averaged over heads and
    over the tokens of each cell. The map is (S + S^2 + S^3 + S^4) C / 4, blurred.
    """
    rows, columns = cells.members(device=call.q.device)
    member = (rows[:, None, :, None] * columns[None, :, None, :]).flatten(2).flatten(0, 1)  # [tokens, cells]
    share = member / member.sum(0)
    own = text = torch.zeros((), device=call.q.device)
    for chunk in call.chunks():
        image, words = _split(call.weights(chunk), call.image, call.pictures)
        own, text = own + share[chunk].T @ (image @ member), text + share[chunk].T @ words
    # Horner: S (C + S (C + S (C + S C))) is the sum of the four powers
    total = torch.zeros_like(text)
    for _ in range(POWERS):
        total = own @ (text + total)
    return blur((total / POWERS).mT.unflatten(2, (rows.shape[1], columns.shape[1])), GAUSSIAN)


def _split(weights: torch.Tensor, image: slice, pictures: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax rows over all keys [B, H, queries, keys] as rows over the image and over the text keys, heads averaged."""
    parts = weights[..., image], torch.cat([weights[..., :pictures.start], weights[..., pictures.stop:]], -1)
    tiny = torch.finfo(weights.dtype).tiny
    first, second = ((part / part.sum(-1, keepdim=True).clamp(min=tiny)).mean(1) for part in parts)
    return first, second
