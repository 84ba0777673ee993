"""Names that nobody knows, and the nearest one that is known."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, whatever the case; None where none does."""
    typed, names = str(name).casefold(), {one.casefold(): one for one in known}
    found = get_close_matches(typed, names, 5, 0.6)
    return names[max(found, key=lambda one: _likeness(typed, one))] if found else None


def _likeness(typed: str, known: str) -> float:
    """Two letters in the wrong order are the usual slip, and the first is rarely wrong."""
    slips = 0.3 * (sorted(typed) == sorted(known)) + 0.1 * (typed[:1] == known[:1])
    return SequenceMatcher(None, typed, known).ratio() + slips


def choices(name: str, known: Iterable[str], head: str = "there are") -> str:
    """What to say after "there is no ...": all names, and the nearest one last, where it is seen."""
    known = list(known)
    near = nearest(name, known)
    return f"{head} {', '.join(known)}" + (f"; did you mean {near}?" if near else "")
