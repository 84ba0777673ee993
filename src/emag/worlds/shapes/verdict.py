"""What is right and wrong in an image, given its prompt: found objects are matched to those asked for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations

import numpy as np

from ...errors import BadValue
from .prompts import read
from .regions import nearest_grey
from .scene import BACKGROUNDS, RADIUS_MEAN, SIZE, Kind, Request
from .see import Found, Sight, see

SIDE, RATIO = 3.0, 1.1
"""Least pixels along "left of" and "above", and least ratio of radii for "larger than", that are taken for it."""

EDGE = 1.5
"""Pixels around an outline that belong to the edge."""


@dataclass(frozen=True)
class Verdict:
    """An image and its prompt. The first six are True where they are right.

    number: as many objects as asked for. colour, shape, size: of the objects matched to those asked for (none matched:
    False). relation: holds (True where none was asked for; False where the two were not found). extra, missing: objects.
    residual: mean squared difference to the nearest image of the world, values in [0, 1]; edges, flat, ground: its parts
    on outlines, inside objects, and on the background; they add up to it. grey: of the background, in [0, 1]. matched:
    the found object for each kind asked for, or None. others: found and not asked for.
    """

    number: bool
    colour: bool
    shape: bool
    size: bool
    relation: bool
    background: bool
    extra: int
    missing: int
    residual: float
    edges: float
    flat: float
    ground: float
    grey: float
    matched: tuple[Found | None, ...]
    others: tuple[Found, ...] = ()

    @property
    def right(self) -> bool:
        """Whether all of it is right."""
        return all((self.number, self.colour, self.shape, self.size, self.relation, self.background))

    @property
    def decibels(self) -> float:
        """Peak signal-to-noise ratio of the image to the nearest of the world; more is cleaner."""
        return float(-10 * np.log10(max(self.residual, 1e-9)))

    @property
    def faults(self) -> tuple[str, ...]:
        """Names of what is wrong, e.g. ("number", "colour")."""
        return tuple(name for name in ("number", "colour", "shape", "size", "relation", "background")
                     if not getattr(self, name))

    def row(self) -> dict[str, float]:
        """Numbers of this verdict by name, for tables."""
        numbers = {name: float(value) for name, value in asdict(self).items() if name not in ("matched", "others")}
        return {"right": float(self.right), **numbers, "decibels": self.decibels}


def judge(images: np.ndarray, prompts: Sequence[str]) -> list[Verdict]:
    """Verdicts of images [n, 64, 64, 3], uint8 or in [0, 1], each with its prompt. A row does not depend on the others.

    Raises `BadValue` for a prompt that is not of this world, and for images of another size or that are no numbers.
    """
    requests = [read(prompt) for prompt in prompts]
    if images.shape != (len(requests), SIZE, SIZE, 3) or not np.isfinite(images).all():
        raise BadValue(f"the judge reads finite images [{len(requests)}, {SIZE}, {SIZE}, 3], one for each prompt, got "
                       f"{list(images.shape)}")
    view = see(images)
    parts = _residuals(view)
    greys = nearest_grey(view.background)
    return [_verdict(one, found, list(BACKGROUNDS)[at], float(ground.mean()), rest)
            for one, found, at, ground, rest in zip(requests, view.found, greys, view.background, parts)]


def _verdict(wanted: Request, found: Sequence[Found], ground: str, grey: float, parts: tuple[float, ...]) -> Verdict:
    matched = match(wanted, found)
    pairs = [(kind, one) for kind, one in zip(wanted.kinds, matched) if one is not None]
    return Verdict(
        number=len(found) == len(wanted.kinds),
        colour=bool(pairs) and all(kind.colour == one.colour for kind, one in pairs),
        shape=bool(pairs) and all(kind.shape == one.shape for kind, one in pairs),
        size=bool(pairs) and all(kind.size in (None, size_of(one)) for kind, one in pairs),
        relation=wanted.relation is None or (None not in matched and holds(wanted.relation, *matched)),
        background=wanted.background in (None, ground),
        extra=max(0, len(found) - len(wanted.kinds)), missing=max(0, len(wanted.kinds) - len(found)),
        residual=sum(parts), edges=parts[0], flat=parts[1], ground=parts[2], grey=grey, matched=matched,
        others=tuple(one for one in found if not any(one is other for other in matched)))


def match(wanted: Request, found: Sequence[Found]) -> tuple[Found | None, ...]:
    """The found object for each kind asked for (None where there are too few), so that most of what was asked is there."""
    slots: list[Found | None] = [*found, *[None] * (len(wanted.kinds) - len(found))]
    return max(permutations(slots, len(wanted.kinds)), key=lambda chosen: _agreement(wanted, chosen))


def _agreement(wanted: Request, chosen: Sequence[Found | None]) -> float:
    """How well found objects answer a request: a match of colour and shape each counts 1, the relation and sizes less."""
    pairs = [(kind, one) for kind, one in zip(wanted.kinds, chosen) if one is not None]
    score = float(sum(1 + 2 * ((one.colour == kind.colour) + (one.shape == kind.shape)) + 0.2 * _fits(kind, one)
                      for kind, one in pairs))
    if wanted.relation is not None and None not in chosen:
        score += 0.1 * holds(wanted.relation, *chosen)
    return score


def _fits(kind: Kind, one: Found) -> bool:
    return kind.size is None or kind.size == size_of(one)


def size_of(one: Found) -> str:
    """"small" or "large"."""
    return "small" if one.place[2] < RADIUS_MEAN else "large"


def holds(relation: str, first: Found | None, second: Found | None) -> bool:
    """Whether two found objects stand in a relation."""
    assert first is not None and second is not None
    (x, y, r), (u, v, s) = first.place, second.place
    if relation == "left of":
        return x < u - SIDE
    if relation == "above":
        return y < v - SIDE
    if relation == "larger than":
        return r > RATIO * s
    return r < s and float(np.hypot(x - u, y - v)) < s - 0.5 * r


def _residuals(view: Sight) -> list[tuple[float, float, float]]:
    """Mean squared rest of each image on edges, in flat parts of objects and on the background."""
    rest = np.square(view.images - view.rendered).mean(-1)
    edge, inside = view.outline < EDGE, view.covered > 0.5
    return [(float(r[e].sum() / r.size), float(r[i & ~e].sum() / r.size), float(r[~i & ~e].sum() / r.size))
            for r, e, i in zip(rest, edge, inside)]
