"""Draws from the true distribution: requests, and scenes that answer them. A generator decides all."""

import numpy as np

from .scene import (
    APART,
    BACKGROUND_JITTER,
    BACKGROUNDS,
    COLOUR_JITTER,
    COLOURS,
    FREE_RADII,
    GAP,
    HELD_RADII,
    HOLDER_RADII,
    HOLDERS,
    LARGER,
    MARGIN,
    PALETTE,
    RADII,
    REACH,
    ROOM,
    SHAPES,
    SIZE,
    Kind,
    Request,
    Scene,
)

PLANS = {"one": 0.20, "two": 0.12, "three": 0.10, "and": 0.16, "left of": 0.13, "above": 0.13, "inside": 0.08,
         "larger than": 0.08}
"""Kinds of prompts and their shares."""

SIZED, GROUNDED = 0.4, 0.5
"""Shares of objects that may have a size word that do, and of prompts that name the background."""


def request(rng: np.random.Generator) -> Request:
    """A request of the training distribution."""
    plan = str(rng.choice(list(PLANS), p=list(PLANS.values())))
    background = str(rng.choice(list(BACKGROUNDS))) if rng.random() < GROUNDED else None
    if plan in ("one", "two", "three"):
        number = 1 + ("one", "two", "three").index(plan)
        return Request((_kind(rng, sized=number == 1),) * number, None, background)
    sized = plan in ("and", "left of", "above")
    first = _kind(rng, sized)
    while True:
        second = _kind(rng, sized)
        held = plan != "inside" or (second.shape in HOLDERS and second.colour != first.colour)
        if held and (second.colour, second.shape) != (first.colour, first.shape):
            break
    return Request((first, second), None if plan == "and" else plan, background)


def plan_of(wanted: Request) -> str:
    """The kind of prompt that a request is, one of `PLANS`."""
    if len(set(wanted.kinds)) == 2:
        return wanted.relation or "and"
    return ("one", "two", "three")[len(wanted.kinds) - 1]


def _kind(rng: np.random.Generator, sized: bool) -> Kind:
    size = str(rng.choice(list(RADII))) if sized and rng.random() < SIZED else None
    return Kind(str(rng.choice(COLOURS)), str(rng.choice(SHAPES)), size)


def place(wanted: Request, rng: np.random.Generator) -> Scene:
    """A scene that answers `wanted`, uniform over positions and radii that are allowed (by rejection)."""
    bands = _bands(wanted)
    while True:
        radii = rng.uniform(*bands)
        low = radii + MARGIN
        centres = rng.uniform(low[:, None], (SIZE - low)[:, None], (len(radii), 2))
        if wanted.relation == "inside":
            centres = _put_inside(wanted, radii, centres, rng)
        if _allowed(wanted, radii, centres):
            break
    order = [1, 0] if wanted.relation == "inside" else list(range(len(radii)))  # what is inside is drawn last
    colours = np.array([PALETTE[kind.colour] for kind in wanted.kinds])
    colours = colours + rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, colours.shape)
    grey = BACKGROUNDS[wanted.background or str(rng.choice(list(BACKGROUNDS)))]
    grey += rng.uniform(-BACKGROUND_JITTER, BACKGROUND_JITTER)
    shapes = np.array([SHAPES.index(kind.shape) for kind in wanted.kinds])
    return Scene(shapes[order], centres[order], radii[order], colours[order], np.full(3, grey))


def _bands(wanted: Request) -> np.ndarray:
    """Least and largest radius of each object, [2, n]."""
    if wanted.relation == "inside":
        return np.array([HELD_RADII, HOLDER_RADII]).T
    free = FREE_RADII[len(wanted.kinds)]
    return np.array([RADII[kind.size] if kind.size else free for kind in wanted.kinds]).T


def _put_inside(wanted: Request, radii: np.ndarray, centres: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Centres with the first object moved into the second: uniform over the disc in which it stays clear of the outline."""
    inner, outer = wanted.kinds
    room, drop = ROOM[outer.shape]
    free = room * radii[1] - REACH.get(inner.shape, 1.0) * radii[0] - 1.25
    angle, away = rng.uniform(0, 2 * np.pi), max(0.0, free) * np.sqrt(rng.random())
    middle = centres[1] + [0, drop * radii[1]]
    return np.stack([middle + away * np.array([np.cos(angle), np.sin(angle)]), centres[1]])


def _allowed(wanted: Request, radii: np.ndarray, centres: np.ndarray) -> bool:
    if wanted.relation == "inside":
        return True
    if wanted.relation == "larger than" and radii[0] < LARGER * radii[1]:
        return False
    axis = {"left of": 0, "above": 1}.get(wanted.relation or "")
    if axis is not None and centres[0, axis] > centres[1, axis] - APART:
        return False
    reach = radii * [REACH.get(kind.shape, 1.0) for kind in wanted.kinds]
    gaps = [np.hypot(*(centres[i] - centres[j])) - reach[i] - reach[j] for i in range(len(radii)) for j in range(i)]
    return all(gap > GAP for gap in gaps)
