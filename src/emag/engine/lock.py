"""One guided run at a time per network."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch

from ..errors import Busy

_owners: "WeakKeyDictionary[torch.nn.Module, str]" = WeakKeyDictionary()
_guard = threading.Lock()


@contextmanager
def hold(module: torch.nn.Module, owner: str) -> Iterator[None]:
    """Mark `module` as serving `owner`. Raises `Busy`, naming the owner, where it already serves a run."""
    with _guard:
        if module in _owners:
            raise Busy(f"this {type(module).__name__} already serves a guided run of {_owners[module]}; wait for it, or "
                       "give each pipeline its own copy of the network")
        _owners[module] = owner
    try:
        yield
    finally:
        with _guard:
            _owners.pop(module, None)
