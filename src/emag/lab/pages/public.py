"""The public face as data: every name of `emag/__init__.pyi`, and the module it is at home in."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import emag

GROUPS = {
    "guiding": ("Guiding a model", r"hosts|tokens|scores|records|families|methods$"),
    "methods": ("Methods", r"methods\."),
    "schedules": ("Schedules and windows", "schedules"),
    "sampling": ("Our own sampling loop", "samplers"),
    "rules": ("Writing a rule", "core"),
    "errors": ("Errors", "errors"),
}
"""Page: its title, and the rooms whose public names stand on it."""

VALUES = {
    "COND": 'The name of the conditional prediction among the branches of a step, `"cond"`.',
    "UNCOND": 'The name of the unconditional prediction among the branches of a step, `"uncond"`.',
    "Branches": "The predictions of one step by branch, each a tensor [batch, ...].",
    "recipes": "The combinations that papers report, by name: `emag.recipes[\"emag+apg\"].rules`.",
}
"""What the public names are that are no classes and no functions, and so have no docstring of their own."""


def homes() -> dict[str, str]:
    """{public name: module it is at home in, without `emag.`}, in the order of the stub."""
    tree = ast.parse((Path(emag.__file__).parent / "__init__.pyi").read_text())
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    return {alias.asname or alias.name: node.module or alias.name for node in imports for alias in node.names}


def group_of(home: str) -> str:
    """The group of a module; a room that no group has is an error, so that no name is left out."""
    group = next((group for group, (_, rooms) in GROUPS.items() if re.match(rooms, home)), None)
    if group is None:
        raise LookupError(f"no page of the reference has the room of emag.{home}: give it one in lab/pages/public.py")
    return group


def grouped() -> dict[str, list[str]]:
    """{group: its public names}."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name, home in homes().items():
        found[group_of(home)].append(name)
    return found


def line_of(name: str) -> str:
    """What a public name is, in one line."""
    value: Any = getattr(emag, name)
    return VALUES.get(name) or (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
