"""Which parts of its network a pass evaluates. A cache, or a wrapper that skips blocks, leaves some out, whatever it is
called and wherever it sits: then a pass is not what the run takes it for."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import zip_longest
from typing import Any

import torch

from ..errors import Unsupported
from .foreign import stand_ins
from .network import Network
from .reading import compiled
from .undo import Undo, patch

SIZES = re.compile(r"\b(sizes?|shapes?)\b", re.IGNORECASE)
"""Of torch's words where tensors of other rows meet; another error is not ours to explain."""
MEND = "a cache, or a wrapper that skips blocks, would mix the passes of a run: switch it off"


class Reached:
    """The smallest modules of a network that have weights, and the order in which the first clean pass came to them.

    What runs in compiled code is left out, what an entry says is evaluated in some passes only, and the attention modules of
    the blocks `served`, in whose place a branch may serve what it kept.
    """

    def __init__(self, network: Network, served: Iterable[int] = ()):
        self.network = network
        ours = {part for at in served for part in network.blocks[at].attention.modules()}
        parts = {} if network.compiled else dict(_parts("", network.module, network.backbone.optional))
        parts = {name: part for name, part in parts.items() if part not in ours}
        self.names, self.parts = tuple(parts), tuple(parts.values())
        at = {part: block.index for block in network.blocks for part in block.module.modules()}
        self._block = tuple(at.get(part, -1) for part in self.parts)
        self._foreign = tuple(stand_ins(network.module))
        self._now: dict[int, None] = {}
        self._order: tuple[int, ...] = ()

    def install(self, undo: Undo) -> None:
        """Put the counters in, until `undo` closes."""
        for number, part in enumerate(self.parts):
            patch(undo, part, "forward", _noting(self._now, number, part.forward))

    @contextmanager
    def clean(self) -> Iterator[None]:
        """Around a clean pass. Raises `Unsupported` where it is not made as the first one was."""
        with self._watched(set(range(len(self.parts))), exact=True):
            yield
        # the first clean pass is the measure of all others
        self._order = self._order or tuple(self._now)

    @contextmanager
    def weak(self, first: int, changed: set[int]) -> Iterator[None]:
        """Around a weak pass from block `first` on that changes the blocks `changed` as a whole."""
        skipped = set(range(first)) | changed
        with self._watched({number for number, block in enumerate(self._block) if block not in skipped}, exact=False):
            yield

    @contextmanager
    def _watched(self, asked: set[int], exact: bool) -> Iterator[None]:
        self._now.clear()
        wanted = [number for number in self._order if number in asked]
        try:
            yield
        except RuntimeError as error:
            came = [number for number in self._now if number in asked]
            if self._order and came != wanted[:len(came)]:  # it had gone astray before it failed
                raise self._astray(came, wanted) from error
            if self._order and self._foreign and SIZES.search(str(error)):
                raise self._kept(error) from error
            raise
        # of a weak pass only what it has to reach: a changed block may call of its parts what it likes
        came = [number for number in self._now if exact or number in wanted]
        if self._order and set(came) != set(wanted):
            raise self._astray(came, wanted)

    def _kept(self, error: RuntimeError) -> Unsupported:
        part, function = self._foreign[0]
        return Unsupported(f"a pass after the first one failed ({(str(error).splitlines() or [''])[0]}), and "
                           f"{function} is the forward of {part or 'the network'}: does it keep tensors from call to call? "
                           f"{MEND}")

    def _astray(self, came: list[int], wanted: list[int]) -> Unsupported:
        at = next(a if b is None else b for a, b in zip_longest(came, wanted) if a != b)
        return Unsupported(f"{self.network.backbone.name} was not evaluated as in the first step, from {self.names[at]} on: "
                           f"{MEND}")


def _parts(name: str, module: torch.nn.Module, optional: tuple[str, ...]) -> Iterator[tuple[str, torch.nn.Module]]:
    """Modules with weights of their own, or with an adapter on them, by name; those inside compiled ones left out."""
    if compiled(module):
        return
    children = [] if hasattr(module, "base_layer") else list(module.named_children())
    if not children and any(True for _ in module.parameters()):
        yield name, module
    for key, child in children:
        below = f"{name}.{key}" if name else key
        if not any(fnmatchcase(below, pattern) for pattern in optional):
            yield from _parts(below, child, optional)


def _noting(now: dict[int, None], number: int, original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        now[number] = None
        return original(*args, **kwargs)

    return forward
