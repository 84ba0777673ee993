"""What is wrong in an image, in words: "2 rings, asked 3"; "red, asked green"; "no blue ring"."""

from collections.abc import Iterator

import numpy as np

from .prompts import plural, read
from .regions import nearest_grey
from .scene import BACKGROUNDS, Kind, Request
from .see import Found
from .verdict import Verdict, size_of


def faults(prompt: str, verdict: Verdict) -> tuple[str, ...]:
    """A short text for each fault, the plainest first; () for an image that is right.

    A fault that several objects share is said once. Raises `BadValue` for a prompt that is not of this world.
    """
    wanted = read(prompt)
    found = [*_number(wanted, verdict), *_objects(wanted, verdict), *_together(wanted, verdict)]
    return tuple(dict.fromkeys(found))


def _number(wanted: Request, verdict: Verdict) -> Iterator[str]:
    asked = len(wanted.kinds)
    seen = asked + verdict.extra - verdict.missing
    if verdict.number:
        return
    if not seen:
        yield "nothing there"
    elif len(set(wanted.kinds)) == 1:  # "two rings": only their number can be wrong
        shape = wanted.kinds[0].shape
        name = shape if all(one is None or one.shape == shape for one in verdict.matched) else "object"
        yield f"{seen} {name if seen == 1 else plural(name)}, asked {asked}"
    elif verdict.extra:
        yield f"{verdict.extra} too many"
    else:
        yield from (f"no {kind.colour} {kind.shape}" for kind, one in zip(wanted.kinds, verdict.matched) if one is None)


def _objects(wanted: Request, verdict: Verdict) -> Iterator[str]:
    """Colour, shape and size of each object, against those asked for."""
    for kind, one in zip(wanted.kinds, verdict.matched):
        if one is None:
            continue
        for asked, seen, name in _pairs(kind, one):
            if asked not in (None, seen):
                yield f"{seen}, asked {asked}" if seen else f"unclear {name}, asked {asked}"


def _pairs(kind: Kind, one: Found) -> tuple[tuple[str | None, str | None, str], ...]:
    return (kind.colour, one.colour, "colour"), (kind.shape, one.shape, "shape"), (kind.size, size_of(one), "size")


def _together(wanted: Request, verdict: Verdict) -> Iterator[str]:
    if not verdict.relation and None not in verdict.matched:
        yield f"not {wanted.relation}"
    if not verdict.background:
        yield f"on {_ground(verdict.grey)}, asked {wanted.background}"


def _ground(grey: float) -> str:
    """The background that a grey value is nearest to."""
    return list(BACKGROUNDS)[nearest_grey(np.full((1, 3), grey))[0]]
