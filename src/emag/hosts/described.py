"""The network that `backbone=` means, in a denoiser function."""

from typing import Any, TypeAlias

import torch

from ..engine.reading import backbone_of, entry_of, unwrapped
from ..errors import BadValue, Unsupported
from ..families import Backbone

Described: TypeAlias = torch.nn.Module | tuple[torch.nn.Module, Backbone] | Backbone | str
"""A network of a known class, or (network, entry); an entry, or a class name, for a part of a denoiser that is a module."""


def find(denoiser: Any, described: Described) -> tuple[torch.nn.Module, Backbone | None]:
    """The network that `backbone=` means, and its entry where it was given. Raises `BadValue` and `Unsupported`."""
    if isinstance(described, tuple):
        return described
    if isinstance(described, torch.nn.Module):
        _check_known(described)
        return described, None
    name = described if isinstance(described, str) else described.name
    parts = list(denoiser.modules()) if isinstance(denoiser, torch.nn.Module) else []
    found = [part for part in parts if type(part).__name__ == name]
    if len(found) != 1:
        raise BadValue(f"{name} names {len(found)} parts of the denoiser, expected 1: give the network itself, "
                       "backbone=network or (network, entry)")
    if isinstance(described, Backbone):
        return found[0], described
    return find(denoiser, found[0])


def _check_known(module: torch.nn.Module) -> None:
    name = type(unwrapped(module)).__name__
    if entry_of(unwrapped(module)) is None and any(map(entry_of, module.modules())):
        backbone_of(unwrapped(module))  # says what is inside
    if entry_of(unwrapped(module)) is None:
        raise Unsupported(
            f"{name} is not a known network: describe it by an entry, from emag.families import Backbone, Stack; "
            f"backbone=(network, Backbone({name!r}, (Stack('blocks', 'attn', ('x',), ('x',), ('image',)),), "
            "per_row=('x', 't'), sample='x', timestep='t')): its list of blocks, their attention module, the argument that "
            "flows through them, and the network's arguments that have batch rows")
