"""A ComfyUI model held against the table: its network, and how many image tokens a call of it has."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch

from ...engine.network import Network
from ...engine.reading import read_network, unwrapped
from ...engine.slot import Slot
from ...errors import Unsupported
from ...families.comfy import COMFY, ComfyNetwork
from ...families.records import Backbone

HOME = "comfy.ldm."


def entry_of(module: torch.nn.Module) -> ComfyNetwork:
    """The table entry of a network's very class: a subclass may call its blocks in another way.

    Raises `Unsupported`, naming the families that are known.
    """
    kind = type(unwrapped(module))
    found = COMFY.get(f"{kind.__module__.removeprefix(HOME)}.{kind.__qualname__}")
    if found is None:
        known = "; ".join(dict.fromkeys(one.family for one in COMFY.values()))
        raise Unsupported(f"{kind.__name__} ({kind.__module__}) is not a network that emag knows in ComfyUI. Known are: "
                          f"{known}")
    return found


def network_of(module: torch.nn.Module, entry: ComfyNetwork) -> Network:
    """The network, with a slot of its own for its attention calls. Raises `Unsupported` where it does not fit its entry."""
    turned = _attribute(module, entry.image_first_with or "")
    return replace(read_network(module, _turned(entry.backbone) if turned else entry.backbone), slot=Slot())


def _turned(backbone: Backbone) -> Backbone:
    """One whose text and image tokens come the other way round."""
    return replace(backbone, stacks=tuple(replace(stack, tokens=stack.tokens[::-1]) for stack in backbone.stacks))


def like_of(module: torch.nn.Module, entry: ComfyNetwork) -> str:
    """The diffusers class whose defaults of rules this model has."""
    return entry.like_with[1] if entry.like_with and _attribute(module, entry.like_with[0]) else entry.like


@dataclass(frozen=True)
class Layout:
    """How x_t becomes tokens. patch: sides of a patch, the last ones those of rows and columns; multiple: what the number of
    image tokens is padded to."""

    patch: tuple[int, ...]
    multiple: int = 1

    @classmethod
    def of(cls, module: torch.nn.Module, entry: ComfyNetwork) -> "Layout":
        """That of a network."""
        patch: Any = _attribute(module, entry.patch) if isinstance(entry.patch, str) else entry.patch
        sides = (patch, patch) if isinstance(patch, int) else tuple(patch)
        return cls(sides, _attribute(module, entry.padded_to or "") or 1)

    def grid(self, x: torch.Tensor) -> tuple[int, ...]:
        """Image tokens of x [rows, channels, ...] along each dimension; ComfyUI pads what does not fill a patch."""
        sizes = x.shape[2:]
        sides = (1,) * (len(sizes) - len(self.patch)) + self.patch
        return tuple(-(-size // side) for size, side in zip(sizes, sides, strict=True))

    def tokens(self, x: torch.Tensor) -> int:
        """Image tokens of x."""
        return prod(self.grid(x))

    def padding(self, x: torch.Tensor) -> int:
        """Tokens behind those of the image that stand for nothing."""
        return -self.tokens(x) % self.multiple


def _attribute(module: torch.nn.Module, path: str) -> Any:
    """An attribute by its path, None where it is not there."""
    found: Any = unwrapped(module)
    for name in filter(None, path.split(".")):
        found = getattr(found, name, None)
    return found if path else None
