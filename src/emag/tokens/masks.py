"""Masks that libraries of grammars put after guidance: which ways of decoding they cannot follow."""

from collections.abc import Iterable
from typing import Any

from ..errors import BadValue, Unsupported

FOLLOWING = ("outlines", "xgrammar")
"""Libraries whose logits processors keep a matcher for each row, and move it on by the row's last token."""
READING = ("syncode",)
"""Libraries that read each row anew from where its text began: beams and drafts are right, a second text is not."""


def check_masks(processors: Iterable[Any], beams: bool, drafted: bool) -> None:
    """Raise where a mask would follow other texts than those that are made. Their own code goes on without a word."""
    for mask in processors:
        library = next((name for name in FOLLOWING + READING if type(mask).__module__.split(".")[0] == name), None)
        if library is None:
            continue
        if library in FOLLOWING and (beams or drafted):
            what = "beams change places" if beams else "drafted tokens are taken back"
            raise Unsupported(f"a mask of {library} follows each row by its last token, and {what}: decode without")
        if _begun(mask):
            raise BadValue(f"this mask of {library} has followed another text: "
                           + ("call its reset() first" if hasattr(mask, "reset") else "make a new one for each call"))


def _begun(mask: Any) -> bool:
    """Whether a mask has followed a text, by what each library keeps of one."""
    return (getattr(mask, "is_first_token", True) is False or getattr(mask, "prefilled", False)
            or getattr(getattr(mask, "grammar_engine", None), "start_from", None) is not None)
