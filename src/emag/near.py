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


MANY = 30
"""Names, of which a list is no longer read."""


def choices(name: str, known: Iterable[str], head: str = "there are", listed: str = "") -> str:
    """What to say after "there is no ...": all names, and the nearest one last, where it is seen.

    Of many names the nearest alone; where none is near, what lists them, `listed`, instead of the list.
    """
    known = list(known)
    near, many = nearest(name, known), len(known) > MANY
    if many and (near or listed):
        return " ".join(word for word in (f"did you mean {near}?" if near else "", listed) if word)
    return f"{head} {', '.join(known)}" + (f"; did you mean {near}?" if near else "")
