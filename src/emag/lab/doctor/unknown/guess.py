"""One class of diffusers that no family has: the entry that was read from it, or why there is none."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

from ....errors import BadValue
from ....families import BACKBONES, Backbone
from ....near import choices
from .proving import proven
from .reading import read_entry
from .shrinking import smallest
from .unreadable import Unreadable
from .written import family_file


@dataclass(frozen=True)
class Guess:
    """What was found of one class. entry: proven, None where none was. reason: why not."""

    name: str
    entry: Backbone | None = None
    reason: str = ""

    @property
    def file(self) -> str:
        """The family file to add; "" where there is none."""
        return family_file(self.entry) if self.entry else ""

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        return {"network": self.name, "proven": self.entry is not None, "reason": self.reason, "file": self.file}


def unserved() -> list[str]:
    """The networks of the installed diffusers that denoise, by their names, and that no family has."""
    return [name for name in dir(diffusers) if _denoises(name) and name not in BACKBONES]


def _denoises(name: str) -> bool:
    cls = getattr(diffusers, name, None)
    return (isinstance(cls, type) and issubclass(cls, torch.nn.Module) and hasattr(cls, "config_name")
            and any(word in name for word in ("Transformer", "DiT", "UNet"))
            and not any(word in name for word in ("ControlNet", "Vae", "Temporal")))


def guesses(names: Sequence[str] = ()) -> Iterator[Guess]:
    """One guess for each class: those named, or all that no family has. Raises `BadValue` for a name that is no network."""
    for name in names:
        cls = getattr(diffusers, name, None)
        if not isinstance(cls, type) or not issubclass(cls, torch.nn.Module):
            raise BadValue(f"the installed diffusers has no network {name}; {choices(name, unserved())}")
    yield from map(guess, names or unserved())


def guess(name: str) -> Guess:
    """What can be read from one class, proven."""
    try:
        made = smallest(getattr(diffusers, name))
        return Guess(name, proven(made, read_entry(made)))
    except Unreadable as error:
        return Guess(name, reason=" ".join(str(error).split()))
