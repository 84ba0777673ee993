"""Names that nobody knows, and the nearest one that is known."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, whatever the case; None where none does."""
    names = {one.casefold(): one for one in known}
    found = get_close_matches(str(name).casefold(), names, 1, 0.6)
    return names[found[0]] if found else None


def choices(name: str, known: Iterable[str]) -> str:
    """What to say after "there is no ...": the nearest name first, then all of them."""
    known = list(known)
    near = nearest(name, known)
    return (f"did you mean {near}? " if near else "") + f"there are {', '.join(known)}"
