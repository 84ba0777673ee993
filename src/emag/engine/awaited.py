"""The first of two answers of a step, in the hands of a host that computes with it before it asks for the second.

Only with the second is it known what the host is to read in the first. So whatever it made of the first in between is made
again then, in the same memory.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import Unsupported
from .answer import Combined, plain


@dataclass
class Journal:
    """What a host made of a first answer: operations in order, with what they gave; none once the second has come."""

    entries: list[tuple[Callable[..., Any], Any, Any, Any]] = field(default_factory=list)
    waiting: bool = True

    def mark(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, whose operations are written down; it shares its memory."""
        marked = plain(tensor).as_subclass(Awaited)
        marked.journal, marked.ours = self, isinstance(tensor, Combined)
        return marked

    def note(self, func: Callable[..., Any], args: Any, kwargs: Any, made: Any) -> Any:
        """One operation, and what it gave, marked."""
        name = getattr(func, "__name__", "")
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            raise Unsupported(f"this pipeline changes its conditional prediction in place ({name}) before it has the "
                              "unconditional one, which a guidance may still change")
        if not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(made)):
            return made
        self.entries.append((func, args, kwargs, made))
        return tree_map_only(torch.Tensor, self.mark, made)

    def close(self) -> None:
        """The first answer is what it is to be: all that came of it is made again."""
        self.waiting, entries, self.entries = False, self.entries, []
        for func, args, kwargs, made in entries:
            for old, new in zip(tree_leaves(made), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor):
                    plain(old).copy_(plain(new))


class Awaited(Combined):
    """A first answer, or what a host made of it. ours: it holds nothing else, and stands for our combined result."""

    journal: Journal
    ours: bool

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = super().__torch_function__(func, types, args, kwargs)
        open_ones = (leaf.journal for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Awaited))
        journal = next((one for one in open_ones if one.waiting), None)
        return journal.note(func, args, kwargs, made) if journal else made
