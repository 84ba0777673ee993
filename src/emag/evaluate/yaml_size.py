"""YAML that would grow far beyond its file, or has no end, refused before anything is made of it."""

from typing import Any

import yaml

MOST, DEEPEST = 100_000, 40
"""Values in a file, those that an alias repeats counted each time, and levels of nesting."""


def refuse_bombs(text: str) -> None:
    """Raise `yaml.YAMLError` for more than `MOST` values, more than `DEEPEST` levels, or an alias inside what it repeats."""
    level = 0
    for count, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > DEEPEST:
            raise yaml.YAMLError(f"it is too deep: at most {DEEPEST} levels are read")
        if count > MOST:
            raise _too_large()
    root = yaml.compose(text, yaml.SafeLoader)
    if root is not None:
        _size(root, {})


def _size(node: Any, known: dict[int, int]) -> int:
    """Values below a node and itself; `known`: those of the nodes seen, 0 while at work on one."""
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.YAMLError("it repeats a part of itself inside that part, without end")
        return known[id(node)]
    known[id(node)] = 0
    inside = [] if isinstance(node, yaml.ScalarNode) else node.value
    parts = [part for item in inside for part in (item if isinstance(item, tuple) else (item,))]
    found = known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    if found > MOST:
        raise _too_large()
    return found


def _too_large() -> yaml.YAMLError:
    return yaml.YAMLError(f"it is too large: at most {MOST} values are read")
