"""Every small pipeline there is: the entries of all modules `small*` beside this one, found by being there."""

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from .small import Case


@cache
def _cases() -> dict[str, Case]:
    modules = (import_module(f".{found.name}", __package__) for found in pkgutil.iter_modules([str(Path(__file__).parent)])
               if found.name.startswith("small"))
    registers = (getattr(module, kind, {}) for module in modules for kind in ("CASES", "MORE"))
    return {name: case for register in registers for name, case in register.items()}


def every() -> dict[str, Case]:
    """The small pipelines of all families, by name."""
    return dict(_cases())
