"""Changes to live objects that are taken back, last in first out, whatever happens in between."""

from contextlib import ExitStack
from typing import Any

_MISSING = object()


def patch(undo: ExitStack, target: Any, name: str, value: Any) -> None:
    """Set `target.__dict__[name]`, past any `__setattr__`, until `undo` closes.

    What somebody else has put there in the meantime (an offload hook set anew, say) is left alone.
    """
    attributes = target.__dict__
    before = attributes.get(name, _MISSING)
    attributes[name] = value
    undo.callback(_restore, attributes, name, value, before)


def _restore(attributes: dict[str, Any], name: str, value: Any, before: Any) -> None:
    if attributes.get(name, _MISSING) is not value:
        return
    if before is _MISSING:
        del attributes[name]
    else:
        attributes[name] = before
