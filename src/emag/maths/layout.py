"""Latents as images: sequences of patches unpacked to spatial dimensions and back."""

import math
from typing import Protocol

import torch

from ..errors import BadValue


class OnGrid(Protocol):
    """What knows how x_t is laid out, such as a `Step`. grid: ([frames,] rows, columns, patch) of a sequence, else None."""

    @property
    def grid(self) -> tuple[int, ...] | None: ...


def unpack(x: torch.Tensor, step: OnGrid) -> torch.Tensor:
    """`x` with its spatial dimensions: [batch, channels, (frames,) height, width], or [batch, channels, length].

    A sequence of patches [batch, (frames *) rows * columns, channels * patch^2] (`step.grid` says so; channels of a token
    are ordered channel, row in the patch, column in the patch) becomes [batch, channels, (frames,) height, width]; anything
    else stays.
    """
    if step.grid is None:
        return x
    *tokens, patch = step.grid
    *frames, rows, columns = tokens
    if x.ndim != 3 or x.shape[1] != math.prod(tokens) or x.shape[2] % patch**2:
        raise BadValue(f"latents {tuple(x.shape)} are no {'x'.join(map(str, tokens))} sequence of {patch}x{patch} patches")
    # [B, F rows columns, C p p] -> [B, F, rows, columns, C, p, p] -> [B, C, F, rows, p, columns, p]: a patch's own rows and
    # columns go inside the grid's
    x = x.unflatten(2, (-1, patch, patch)).unflatten(1, (-1, rows, columns))
    return x.permute(0, 4, 1, 2, 5, 3, 6).reshape(len(x), -1, *frames, rows * patch, columns * patch)


def pack(x: torch.Tensor, step: OnGrid) -> torch.Tensor:
    """Inverse of `unpack`: [batch, channels, (frames,) height, width] as a sequence [batch, tokens, channels * patch^2]."""
    if step.grid is None:
        return x
    *frames, rows, columns, patch = step.grid
    x = x.reshape(len(x), -1, math.prod(frames), rows, patch, columns, patch)
    return x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)


def planes(x: torch.Tensor, step: OnGrid) -> torch.Tensor:
    """`x` as [batch, planes, height, width]: frames count as planes, a length as one row."""
    x = unpack(x, step)
    return x.reshape(len(x), -1, *(x.shape[-2:] if x.ndim > 3 else (1, x.shape[-1])))


def from_planes(x: torch.Tensor, step: OnGrid, like: torch.Tensor) -> torch.Tensor:
    """Inverse of `planes`, for latents shaped as `like`."""
    return x.reshape(like.shape) if step.grid is None else pack(x, step)
