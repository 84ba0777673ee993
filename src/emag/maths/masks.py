"""Masks as strings: where on the latents a term acts, as plain data that fits any resolution.

    box:x0:y0:x1:y1    rectangle, fractions of width and height from the top left; a cell it cuts counts by its share
    bump:cx:cy:width   Gaussian of peak 1 around a point; width: standard deviation, in fractions of each side
    frames:a:b         part of a video or a sound, fractions of its length; a frame it cuts counts by its share
    left               a mask by name, given as emag.guide(..., masks={"left": tensor}), resized by area averages
    rest:left+right    1 minus the sum of masks, at least 0
    left*frames:0:0.5  product; every form above can be a factor

Masks are soft wherever they cut a cell, so that masks which share an edge, or add up to 1, add up to 1 on every grid.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch.nn.functional import interpolate

from ..errors import BadValue
from .layout import OnGrid, pack, unpack

FORMS = {
    "box": "box:x0:y0:x1:y1 with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1",
    "bump": "bump:cx:cy:width with width above 0",
    "frames": "frames:a:b with 0 <= a < b <= 1",
}
REST = "rest"


class Masked(OnGrid, Protocol):
    """What knows the masks a host was given, such as a `Step`."""

    @property
    def masks(self) -> Mapping[str, torch.Tensor]: ...


@dataclass(frozen=True)
class Atom:
    """One form with its numbers, or the name of a given mask."""

    form: str
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Factor:
    """One atom, or 1 minus the sum of several."""

    atoms: tuple[Atom, ...]
    rest: bool = False


@lru_cache(maxsize=256)
def read_mask(mask: str) -> tuple[Factor, ...]:
    """The factors of a mask. Raises `BadValue` where it is not written as above."""
    if not isinstance(mask, str) or not mask:
        raise BadValue(f"a mask is a text such as 'box:0:0:0.5:1' or the name of a given one, got {mask!r}")
    return tuple(_factor(part.strip()) for part in mask.split("*"))


def mask_names(mask: str) -> tuple[str, ...]:
    """The masks it names, which the user has to give."""
    return tuple(atom.form for factor in read_mask(mask) for atom in factor.atoms if atom.form not in FORMS)


def evaluate_mask(mask: str, like: torch.Tensor, step: Masked) -> torch.Tensor:
    """The mask as factors for `like`, latents [batch, channels, ...] or packed: what `like` is multiplied by, in its dtype.

    Raises `BadValue` where a named mask was not given or has another shape, and where a form does not fit the latents.
    """
    image = unpack(like, step)
    made = torch.ones((), device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    for factor in read_mask(mask):
        parts = [_drawn(atom, image.shape, made, step) for atom in factor.atoms]
        # masks that overlap may add up to more than 1
        made = made * ((1 - sum(parts)).clamp(min=0) if factor.rest else parts[0])
    made = made.expand(-1, -1, *image.shape[2:]).to(like.dtype)
    return made if step.grid is None else pack(made.expand(-1, *image.shape[1:]), step)


def not_given(name: str) -> str:
    """What to say where a rule names a mask that the user did not give."""
    return f"a rule names the mask {name!r}, which was not given: say emag.guide(..., masks={{{name!r}: a tensor}})"


def _factor(text: str) -> Factor:
    head, colon, tail = text.partition(":")
    if head == REST and colon:
        return Factor(tuple(_atom(part.strip()) for part in tail.split("+")), rest=True)
    return Factor((_atom(text),))


def _atom(text: str) -> Atom:
    form, *numbers = text.split(":")
    if form not in FORMS:
        if numbers or not re.fullmatch(r"[^\W\d][\w-]*", form) or form == REST:
            raise BadValue(f"cannot read the mask {text!r}: write a name, {', '.join(FORMS.values())}, or rest:a+b")
        return Atom(form)
    try:
        values = tuple(float(number) for number in numbers)
    except ValueError:
        values = ()
    if not _fits(form, values):
        raise BadValue(f"cannot read the mask {text!r}: write {FORMS[form]}")
    return Atom(form, values)


def _fits(form: str, values: tuple[float, ...]) -> bool:
    match form, values:
        case "box", (x0, y0, x1, y1):
            return 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
        case "bump", (cx, cy, width):
            return math.isfinite(cx) and math.isfinite(cy) and 0 < width < math.inf
        case "frames", (a, b):
            return 0 <= a < b <= 1
    return False


def _drawn(atom: Atom, shape: Sequence[int], like: torch.Tensor, step: Masked) -> torch.Tensor:
    """One atom as [1 or batch, 1, ...], in the dtype of `like`; `shape` is that of the unpacked latents."""
    sizes = list(shape[2:])
    if atom.form not in FORMS:
        return _named(atom.form, shape, like, step)
    if atom.form == "frames":
        if len(sizes) not in (1, 3):
            raise BadValue("frames:a:b is for video and sound; these latents are single images: use box or bump")
        a, b = atom.numbers
        return _coverage(a, b, sizes[0], like).view(1, 1, -1, *[1] * (len(sizes) - 1))
    if len(sizes) < 2:
        raise BadValue(f"{atom.form} needs latents with rows and columns; for sound use frames:a:b")
    along = _boxed if atom.form == "box" else _bump
    rows, columns = along(atom.numbers, sizes[-2], sizes[-1], like)
    return (rows[:, None] * columns).view(1, 1, *[1] * (len(sizes) - 2), *sizes[-2:])


def _boxed(at: tuple[float, ...], rows: int, columns: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x0, y0, x1, y1 = at
    return _coverage(y0, y1, rows, like), _coverage(x0, x1, columns, like)


def _bump(at: tuple[float, ...], rows: int, columns: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    cx, cy, width = at
    return _bell(cy, width, rows, like), _bell(cx, width, columns, like)


def _coverage(low: float, high: float, cells: int, like: torch.Tensor) -> torch.Tensor:
    """Share of each of `cells` equal cells of [0, 1] that lies between low and high."""
    start = torch.arange(cells, device=like.device, dtype=like.dtype)
    # of the cell [i, i + 1], in cells: what lies below `high` less what lies below `low`
    return (high * cells - start).clamp(0, 1) - (low * cells - start).clamp(0, 1)


def _bell(centre: float, width: float, cells: int, like: torch.Tensor) -> torch.Tensor:
    # the value at the middle of each cell
    at = (torch.arange(cells, device=like.device, dtype=like.dtype) + 0.5) / cells
    return torch.exp(-0.5 * ((at - centre) / width).square())


def _named(name: str, shape: Sequence[int], like: torch.Tensor, step: Masked) -> torch.Tensor:
    if name not in step.masks:
        raise BadValue(not_given(name))
    value, sizes = step.masks[name].to(like), tuple(shape[2:])
    if value.ndim == 2 and len(sizes) == 3:
        value = value[None]  # one picture for all frames
    if value.ndim == len(sizes):
        value = value[None]
    if value.ndim != len(sizes) + 1 or value.shape[0] not in (1, shape[0]):
        wanted = "[(frames,) height, width]" if len(sizes) > 1 else "[length]"
        raise BadValue(f"the mask {name!r} has shape {tuple(step.masks[name].shape)}; give {wanted}, or that with a first "
                       f"dimension of 1 or {shape[0]}, one for each image")
    return interpolate(value[:, None], size=sizes, mode="area")
