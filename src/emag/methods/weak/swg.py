"""Sliding windows: a weak branch that sees the image through overlapping windows, each by itself."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from ...core import Perturbation, RunStart, State, Step
from ...errors import BadValue, Unsupported
from ...maths.streams import Streams
from ...maths.vectors import widened
from ..common.push import Push

GIVEN = ("control", "residual", "rotary", "prior_token", "position_ids")
"""Parts of names of arguments that are as large as the image, or count its tokens, and would not fit a window."""


@dataclass(frozen=True)
class Windows(Perturbation):
    """The weak branch of SWG: `count` windows along each side, `share` of it long, a multiple of `unit` latent pixels."""

    share: float
    count: int
    unit: int
    overlap: bool

    @property
    def copies(self) -> int:
        return self.count**2

    def size(self, side: int, patch: int = 1) -> int:
        """Length of a window along a side of `side` latent pixels, in whole patches."""
        unit = math.lcm(self.unit, patch)
        return max(1, round(self.share * side / unit)) * unit

    def along(self, side: int, patch: int = 1) -> list[slice]:
        """Windows along a side: the first begins at 0, the last ends with the side, the others lie evenly between."""
        size = self.size(side, patch)
        starts = [round(i * (side - size) / (self.count - 1)) for i in range(self.count)]
        return [slice(start, start + size) for start in starts]

    def windows(self, height: int, width: int, patch: tuple[int, int] = (1, 1)) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of every window, row by row."""
        return product(self.along(height, patch[0]), self.along(width, patch[1]))

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return WindowsState(self)


class WindowsState(State):
    """Windows cut out of x_t, one copy of the rows each, and their predictions put together again."""

    def __init__(self, spec: Windows):
        super().__init__()
        self.spec = spec

    def predicted(self, step: Step, cond: torch.Tensor) -> None:
        self.cond = cond

    def inputs(self, values: dict[str, Any], condition: tuple[str, ...]) -> dict[str, Any]:
        x = values["hidden_states"]  # all copies, one after the other
        parts = zip(x.chunk(self.spec.copies), self._windows(x), strict=True)
        return {"hidden_states": torch.cat([part[..., rows, columns] for part, (rows, columns) in parts])}

    def at_step(self, prediction: torch.Tensor) -> torch.Tensor:
        """The mean of all windows at each pixel; where one alone lies, the clean prediction if only overlaps count."""
        total, count = torch.zeros_like(widened(self.cond)), self.cond.new_zeros(self.cond.shape[-2:])
        parts = prediction.chunk(self.spec.copies)
        for part, (rows, columns) in zip(parts, self._windows(self.cond), strict=True):
            total[..., rows, columns] += part
            count[rows, columns] += 1
        least = 1 if self.spec.overlap else 0
        return torch.where(count > least, total / count, self.cond)

    def _windows(self, x: torch.Tensor) -> Iterator[tuple[slice, slice]]:
        height, width = x.shape[-2:]
        return self.spec.windows(height, width, patches(x, self.grid))


def patches(x: torch.Tensor, tokens: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a patch of latents [..., height, width] with so many tokens a side; 1 where that is not known."""
    rows, columns = tokens[-2:] or x.shape[-2:]
    return x.shape[-2] // rows, x.shape[-1] // columns


@dataclass(frozen=True)
class SWG(Push):
    """Sliding window guidance: push away from a network that sees the image through overlapping windows.

    x_t is cut into windows, which are evaluated alone and at their own size, and what they predict is averaged where
    they overlap. So the weak branch knows the parts and not the whole. Where one window alone lies the two differ by
    the missing surroundings only; as in the authors' code just the overlaps are guided by default (M-SWG).

    For networks that take images of other sizes as spatial latents. Positions are those the network gives to an image
    of the window's size. Sequences of patches (FLUX, Qwen-Image) are refused: which positions a window has there is
    unconfirmed. So are arguments as large as the image (ControlNets, given pictures).

    Args:
        share: side of a window as a share of the image's, above 0 and below 1; 5/8 published.
        count: windows along each side, at least 2.
        unit: sides of windows are multiples of so many latent pixels, and of the network's patches: 8 for U-Nets that
            halve three times.
        overlap: guide only where windows overlap; False guides everywhere.

    >>> import emag
    >>> list(emag.SWG(1.2).perturbation.windows(64, 64))[-1]
    (slice(24, 64, None), slice(24, 64, None))
    """

    share: float = 0.625
    count: int = 2
    unit: int = 8
    overlap: bool = True

    name = "swg"
    paper = "arXiv 2411.10257"
    equation = "p + (w - 1) (cond - mean of windows)"
    cost = "count^2 evaluations of windows a step, share^2 of the image each: 1.56 evaluations by default"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1 or self.count < 2 or self.unit < 1:
            raise BadValue("swg needs share in (0, 1), at least 2 windows a side and a unit of at least 1 latent pixel, got "
                           f"share={self.share}, count={self.count}, unit={self.unit}")

    def fits_run(self, start: RunStart) -> None:
        x, given = start.first.x, start.arguments or {}
        names = [name for name, value in given.items() if value is not None and any(part in name for part in GIVEN)]
        larger = [name for name, value in given.items() if isinstance(value, torch.Tensor)
                  and value.ndim == 4 and value.shape[2:] == x.shape[2:] and value.shape[1] != x.shape[1]]
        if start.first.grid is not None or x.ndim != 4 or names or larger:
            raise Unsupported("swg cuts spatial latents [batch, channels, height, width] into windows, without anything of "
                              f"the image's size beside them; here are {', '.join(names + larger) or tuple(x.shape)}")
        self._check_windows(list(zip(x.shape[-2:], patches(x, start.tokens), strict=True)))

    def _check_windows(self, sides: list[tuple[int, int]]) -> None:
        """Raise `BadValue` for windows that leave gaps, are the whole, or nowhere overlap where that is asked."""
        sizes = [(side, self.perturbation.size(side, patch)) for side, patch in sides]
        for side, size in sizes:
            if not side / self.count <= size < side:
                raise BadValue(f"{self.count} windows of {size} latent pixels do not cover a side of {side}, or are no part "
                               "of it: change swg share, count or unit")
        if self.overlap and all(size * self.count == side for side, size in sizes):
            side, size = sizes[0]
            raise BadValue(f"windows of {size} latent pixels nowhere overlap on a side of {side}, and swg guides where they "
                           "do: give a larger share, a smaller unit, or overlap=False")

    @property
    def perturbation(self) -> Windows:
        return Windows(self.share, self.count, self.unit, self.overlap)
