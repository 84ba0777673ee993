"""Analysis by re-rendering: which objects an image shows, found without any network, and the world's image nearest to it.

Regions of one colour are taken from large to small; each is explained by the shape, centre, radius and colour whose
rendering over what was found before comes nearest. What remains unexplained and is solid is taken for one more object.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from . import fit, regions
from .regions import COLOUR_TABLE, EVERYWHERE, Region
from .render import distance
from .scene import COLOUR_JITTER, COLOURS, SHAPES, SIZE

WINDOWS, AROUND, CORE, REST, MOST, SAME = (24, 36, SIZE), 4, 1, 4, 8, 0.1
"""Sides of the windows that regions are fitted in, pixels around a region, pixels that a solid region keeps when one is
taken off all along its outline (a region of one colour; one that was left over), objects looked for in an image, and the
difference in colour that makes no region."""

CLEAR, OFF = 0.4, 0.34
"""Largest misfit of an object that has a shape, and largest distance of its colour from a palette's that it is named by."""


@dataclass(frozen=True)
class Found:
    """An object that was seen. shape, colour: names, or None where it is like none. place: x, y, radius in pixels.

    rgb: as measured [3]. misfit: RMS of what the rendering leaves on it, over its contrast.
    """

    shape: str | None
    colour: str | None
    place: tuple[float, float, float]
    rgb: tuple[float, float, float]
    misfit: float


@dataclass
class Sight:
    """Images [n, 64, 64, 3] in [0, 1], their backgrounds [n, 3], what was found, and the rendering of that so far.

    covered, outline [n, 64, 64]: how much of a pixel objects cover, and how far the next outline is, in pixels. torn:
    whether it belongs to an object without a shape, or to the shape that came nearest.
    """

    images: np.ndarray
    background: np.ndarray
    rendered: np.ndarray
    found: list[list[Found]]
    covered: np.ndarray
    outline: np.ndarray
    torn: np.ndarray


def see(images: np.ndarray) -> Sight:
    """Objects of images [n, 64, 64, 3], uint8 or in [0, 1]. A row does not depend on the others."""
    images = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)
    calm, background = regions.smooth(images), regions.backgrounds(images)
    canvas = np.repeat(regions.allowed_grey(background)[:, None, None], SIZE, 1).repeat(SIZE, 2).astype(np.float32)
    view = Sight(images, background, canvas, [[] for _ in images], np.zeros(images.shape[:3], np.float32),
                np.full(images.shape[:3], np.inf, np.float32), np.zeros(images.shape[:3], bool))
    _explain(view, [one for one in regions.by_colour(calm, background) if _core(one, filled=True) >= CORE])
    left = [one for one in regions.unexplained(calm, regions.smooth(canvas)) if _core(one, filled=False) >= REST]
    _explain(view, [one for one in left if not _beside_torn(view, one)])
    return view


def _beside_torn(view: Sight, region: Region) -> bool:
    """Whether what was left over belongs to an object without a shape: then it is no object of its own."""
    return bool((ndimage.binary_dilation(region.mask, EVERYWHERE) & view.torn[region.image]).any())


def _core(region: Region, filled: bool) -> int:
    a, b, c, d = region.box
    mask = region.mask[a:b, c:d]
    mask = ndimage.binary_fill_holes(mask) if filled else mask
    return int(ndimage.binary_erosion(mask, EVERYWHERE).sum())


def _explain(view: Sight, some: Sequence[Region]) -> None:
    """Add an object for each region that the rendering does not explain yet: all images' largest, then the second, ..."""
    of: list[list[Region]] = [[] for _ in view.images]
    for region in some:
        of[region.image].append(region)
    for own in of:
        own.sort(key=lambda one: -(one.box[1] - one.box[0]) * (one.box[3] - one.box[2]))
    while any(of):
        for image, own in enumerate(of):
            of[image] = [one for one in own if not _explained(view, one)] if len(view.found[image]) < MOST else []
        for side, rows in _by_window([own[0] for own in of if own]):
            _fit(view, rows, [_later(one, of[one.image][1:]) for one in rows], side)
        of = [own[1:] for own in of]


def _explained(view: Sight, region: Region) -> bool:
    """Whether a region has its colour already, as what is seen through a ring has."""
    rest = view.images[region.image][region.mask] - view.rendered[region.image][region.mask]
    return bool(np.abs(np.median(rest, 0)).max() < SAME)


def _by_window(some: Sequence[Region]) -> Iterator[tuple[int, list[Region]]]:
    least = 0
    for side in WINDOWS:
        rows = [one for one in some if least < _extent(one) <= side]
        if rows:
            yield side, rows
        least = side


def _extent(region: Region) -> int:
    a, b, c, d = region.box
    return min(SIZE, max(b - a, d - c) + 2 * AROUND)


def _later(region: Region, smaller: Sequence[Region]) -> np.ndarray:
    """Pixels of an image that smaller regions decide: theirs, and one around them that is not the region's own."""
    mask = np.zeros_like(region.mask)
    for other in smaller:
        mask |= other.mask
    return ndimage.binary_dilation(mask, EVERYWHERE) & ~region.mask if mask.any() else mask


def _fit(view: Sight, rows: Sequence[Region], later: Sequence[np.ndarray], side: int) -> None:
    images = np.array([one.image for one in rows])
    box = np.array([one.box for one in rows])
    corner = np.clip(np.stack([box[:, 2] + box[:, 3] - side, box[:, 0] + box[:, 1] - side], 1) // 2, 0, SIZE - side)
    rgb = np.stack([_colour(view.images[one.image], one) for one in rows])
    seen, under = (np.stack([part[i, y:y + side, x:x + side] for i, (x, y) in zip(images, corner)])
                   for part in (view.images, view.rendered))
    weight = np.stack([~hidden[y:y + side, x:x + side] for hidden, (x, y) in zip(later, corner)]).astype(np.float32)
    contrast = rgb[:, None, None] - under
    strength = np.square(contrast).sum(-1)
    cover = np.clip(((seen - under) * contrast).sum(-1) / np.maximum(strength, 0.02), -0.5, 1.5)
    weight *= np.minimum(1, strength / 0.02)
    shapes, places = fit.fit_shape(cover, weight, corner.astype(np.float32), box)
    for k, image in enumerate(images):
        alpha = _draw(view, image, shapes[k], places[k], rgb[k])
        x, y = corner[k]
        inner = np.s_[y:y + side, x:x + side]
        misfit = _misfit(seen[k] - view.rendered[image][inner], contrast[k], weight[k], alpha[inner])
        if misfit > CLEAR:
            view.torn[image] |= rows[k].mask | (alpha > 0.5)
        view.found[image].append(_found(shapes[k], places[k], rgb[k], misfit))


def _colour(image: np.ndarray, region: Region) -> np.ndarray:
    """Median colour of a region's inner pixels, of all where there are few."""
    a, b, c, d = region.box
    mask = region.mask[a:b, c:d]
    core = ndimage.binary_erosion(mask)
    return np.median(image[a:b, c:d][core if core.sum() >= 6 else mask], 0)


def _draw(view: Sight, image: int, shape: int, place: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Lay an object, in the nearest colour that the world has, over the rendering of an image; its coverage [64, 64]."""
    middle = COLOUR_TABLE[regions.nearest_colour(rgb[None])[0][0]]
    colour = np.clip(rgb, middle - COLOUR_JITTER, middle + COLOUR_JITTER)
    along = np.arange(SIZE) + 0.5
    away = distance(shape, along[None] - place[0], along[:, None] - place[1], place[2]).astype(np.float32)
    alpha = np.clip(0.5 - away, 0, 1)
    view.outline[image] = np.minimum(view.outline[image], np.abs(away))
    view.covered[image] = np.maximum(view.covered[image], alpha)
    view.rendered[image] += alpha[..., None] * (colour - view.rendered[image])
    return alpha


def _misfit(rest: np.ndarray, contrast: np.ndarray, weight: np.ndarray, alpha: np.ndarray) -> float:
    """RMS of what the rendering leaves on an object and two pixels around it, over its contrast to what is below."""
    counts = weight * (ndimage.maximum_filter(alpha, 5) > 0.5)
    left, whole = ((np.square(part).sum(-1) * counts).sum() for part in (rest, contrast))
    return float(np.sqrt(left / max(whole, 1e-6)))


def _found(shape: int, place: np.ndarray, rgb: np.ndarray, misfit: float) -> Found:
    named, away = (value[0] for value in regions.nearest_colour(rgb[None]))
    return Found(SHAPES[shape] if misfit <= CLEAR else None, COLOURS[named] if away <= OFF else None,
                 _three(place), _three(rgb), misfit)


def _three(values: np.ndarray) -> tuple[float, float, float]:
    a, b, c = values
    return float(a), float(b), float(c)
