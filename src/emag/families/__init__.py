"""The model families: one file each, found by being here. `register` adds one from outside."""

import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module

from ..errors import BadValue
from ..near import nearest
from .records import Backbone, Default, Example, Family, Host, Stack
from .unserved import reason

BACKBONES: dict[str, Backbone] = {}
"""Every network class we know, by name."""
HOSTS: dict[str, Host] = {}
"""Every pipeline class we know, by name."""
DEFAULTS: dict[str, Mapping[str, Default]] = {}
"""Defaults of rules, by network class (or the name of an embedded model, or "*"), then by the rule's name."""
EXAMPLES: list[Example] = []
"""Pretrained models, for docs and tests."""

__all__ = ["BACKBONES", "DEFAULTS", "EXAMPLES", "HOSTS", "Backbone", "Default", "Example", "Family", "Host", "Stack",
           "register", "unknown"]


def register(family: Family) -> None:
    """Make a family known to every part of emag: its networks, its pipelines and their defaults.

    For classes of your own, from outside the package; see docs/adding-a-model.md. Raises `BadValue` for a name that is
    taken: nothing that works today changes under a user's hands.
    """
    tables = (BACKBONES, {entry.name for entry in family.networks}), (HOSTS, {entry.name for entry in family.pipelines})
    for known, names in (*tables, (DEFAULTS, set(family.defaults))):
        if names & known.keys():
            raise BadValue(f"{', '.join(sorted(names & known.keys()))}: already known to emag; register only what is not")
    BACKBONES.update({entry.name: entry for entry in family.networks})
    HOSTS.update({entry.name: entry for entry in family.pipelines})
    DEFAULTS.update(family.defaults)
    EXAMPLES.extend(family.examples)


def unknown(name: str, what: str, known: Iterable[str]) -> str:
    """What to say of a class that is in no family: the nearest name that is known, and the way out."""
    near, why = nearest(name, known), reason(name)
    told = f": {why}" if why else f" (did you mean {near}?)" if near else ""
    return (f"{name} is not a supported {what}{told}"
            + "; `emag models` lists those that are, and emag.register adds one of your own (docs/adding-a-model.md)")


_modules = (import_module(f".{_found.name}", __name__) for _found in pkgutil.iter_modules(__path__))
_families = [_module.FAMILY for _module in _modules if hasattr(_module, "FAMILY")]
# pipelines around the network of another family come behind its own
for _family in sorted(_families, key=lambda family: not family.networks):
    register(_family)
