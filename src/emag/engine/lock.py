"""One guided run at a time per network."""

from weakref import WeakKeyDictionary

import torch

from ..errors import Busy
from .undo import Undo


class _Owner(str):
    """Who holds a network: a name, and each holder another object."""

    __slots__ = ()


_owners: "WeakKeyDictionary[torch.nn.Module, _Owner]" = WeakKeyDictionary()


def hold(module: torch.nn.Module, owner: str, undo: Undo) -> None:
    """Mark `module` as serving `owner`, until `undo` closes. Raises `Busy`, naming the owner, where it serves one."""
    mine = _Owner(owner)
    undo.callback(_release, module, mine)
    found = _owners.setdefault(module, mine)  # one step of the dictionary's: of two threads one is first
    if found is not mine:
        raise Busy(f"this {type(module).__name__} already serves a guided run of {found}; wait for it, or give each "
                   "pipeline its own copy of the network")


def _release(module: torch.nn.Module, mine: _Owner) -> None:
    if _owners.get(module) is mine:
        _owners.pop(module, None)
