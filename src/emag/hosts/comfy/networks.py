"""A ComfyUI model held against the table: its network, and how many image tokens a call of it has."""

from dataclasses import replace
from math import prod
from typing import Any

import torch

from ...engine.network import Network, read_network, unwrapped
from ...engine.slot import Slot
from ...errors import Unsupported
from ...families.comfy import COMFY, ComfyNetwork

HOME = "comfy.ldm."


def entry_of(module: torch.nn.Module) -> ComfyNetwork:
    """The table entry of a network's very class: a subclass may call its blocks in another way.

    Raises `Unsupported`, naming the families that are known.
    """
    kind = type(unwrapped(module))
    found = COMFY.get(f"{kind.__module__.removeprefix(HOME)}.{kind.__qualname__}")
    if found is None:
        known = "; ".join(dict.fromkeys(one.family for one in COMFY.values()))
        raise Unsupported(f"{kind.__name__} ({kind.__module__}) is not a network that emag knows in ComfyUI. Known are: {known}")
    return found


def network_of(module: torch.nn.Module, entry: ComfyNetwork) -> Network:
    """The network, with a slot of its own for its attention calls. Raises `Unsupported` where it does not fit its entry."""
    return replace(read_network(module, entry.backbone), slot=Slot())


def patch_of(module: torch.nn.Module, entry: ComfyNetwork) -> tuple[int, ...]:
    """Sides of a patch of x_t, the last ones those of rows and columns."""
    patch: Any = getattr(unwrapped(module), entry.patch) if isinstance(entry.patch, str) else entry.patch
    return (patch, patch) if isinstance(patch, int) else tuple(patch)


def grid_of(x: torch.Tensor, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Image tokens of x [rows, channels, ...] along each dimension; ComfyUI pads what does not fill a patch."""
    sizes = x.shape[2:]
    sides = (1,) * (len(sizes) - len(patch)) + patch
    return tuple(-(-size // side) for size, side in zip(sizes, sides, strict=True))


def tokens(grid: tuple[int, ...]) -> int:
    """Image tokens of a grid."""
    return prod(grid)
