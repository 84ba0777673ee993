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
    if verdict.number:
        return
    uneven = _uneven(verdict)
    yield from (f"uneven {one.shape or 'shape'}" for one in uneven.values())
    seen, extra = asked + verdict.extra - verdict.missing - len(uneven), verdict.extra - len(uneven)
    if uneven and seen == asked:
        return
    if not seen:
        yield "nothing there"
    elif len(set(wanted.kinds)) == 1:  # "two rings": only their number can be wrong
        shape = wanted.kinds[0].shape
        name = shape if all(one is None or one.shape == shape for one in verdict.matched) else "object"
        yield f"{seen} {name if seen == 1 else plural(name)}, asked {asked}"
    elif extra > 0:
        yield f"{extra} too many"
    else:
        yield from (f"no {kind.colour} {kind.shape}" for kind, one in zip(wanted.kinds, verdict.matched) if one is None)


def _uneven(verdict: Verdict) -> dict[int, Found]:
    """What was taken for objects too many and is a lump on one that was asked for: the number of each, and that one."""
    return {at: one for at, other in enumerate(verdict.others) for one in verdict.matched if one and _on(other, one)}


def _on(lump: Found, one: Found) -> bool:
    """Whether a lump of the same colour overlaps an object, as objects of the world never do."""
    (x, y, r), (u, v, s) = lump.place, one.place
    return lump.colour in (one.colour, None) and float(np.hypot(x - u, y - v)) < max(r, s) + 0.5 * min(r, s)


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
