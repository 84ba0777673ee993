"""Masks that libraries of grammars put after guidance: which ways of decoding they cannot follow."""

from collections.abc import Iterable
from typing import Any

from ..errors import BadValue, Unsupported

FOLLOWING = ("outlines", "xgrammar")
"""Libraries whose logits processors keep a matcher for each row, and move it on by the row's last token."""


def check_masks(processors: Iterable[Any], beams: bool, drafted: bool) -> None:
    """Raise where a mask would follow other texts than those that are made. Their own code goes on without a word."""
    for mask in processors:
        library = next((name for name in FOLLOWING if type(mask).__module__.split(".")[0] == name), None)
        if library is None:
            continue
        if beams or drafted:
            what = "beams change places" if beams else "drafted tokens are taken back"
            raise Unsupported(f"a mask of {library} follows each row by its last token, and {what}: decode without")
        if getattr(mask, "is_first_token", True) is False or getattr(mask, "prefilled", False):
            raise BadValue(f"this mask of {library} has followed another text: "
                           + ("call its reset() first" if hasattr(mask, "reset") else "make a new one for each call"))
