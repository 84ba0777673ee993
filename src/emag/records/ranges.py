"""What no guidance is good for: scales far out of any useful range, and images that are all black and white."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import numpy as np

from ..core import Schedule
from ..methods.common.values import hints_of

log = logging.getLogger("emag")

FARTHEST = 100.0
"""No published scale is above 35, of either sign."""
CLIPPED = 0.9
"""Share of an image's values at the ends of their range from which on there is no picture left."""


def warn_of_scales(parts: Sequence[Any]) -> None:
    """Say which rules (or correctors) have a scale far out of any useful range."""
    for part in parts:
        far = next((value for value in strengths(part) if abs(value) > FARTHEST), None)
        if far is not None:
            warn_of_scale(part.name, far)


def warn_of_scale(name: str, value: float) -> None:
    """Say that one scale is far out of any useful range, where it is."""
    if abs(value) > FARTHEST:
        log.warning("emag: %s at %g is far out of any useful range (1 is off, most work at 1.2 to 10): expect noise", name,
                    value)


def strengths(part: Any) -> Iterator[float]:
    """Every number in a rule that multiplies a difference of predictions: its scales, its schedules', its terms'."""
    hints = hints_of(type(part))
    for name in (one.name for one in fields(part)):
        value = getattr(part, name)
        if name.endswith("scale") or _scheduled(hints[name]):
            yield from _numbers(value)
        elif isinstance(value, tuple) and value and all(is_dataclass(item) for item in value):
            yield from (number for item in value for number in strengths(item))


def warn_of_clipped(images: Sequence[Any]) -> None:
    """Say how many images have hardly a value between black and white."""
    count = sum(clipped(image) >= CLIPPED for image in images)
    if count:
        log.warning("emag: %d of %d image(s) have hardly a pixel between black and white: a scale is too high, or the "
                    "network's numbers do not fit its precision", count, len(images))


def clipped(image: Any) -> float:
    """Share of the values of a picture that lie at an end of their range."""
    values = np.asarray(image)
    return float(((values == 0) | (values == 255)).mean()) if values.dtype == np.uint8 and values.size else 0.0


def _scheduled(hint: Any) -> bool:
    """True for what takes a number or a schedule: such a parameter is a strength."""
    return hint is Schedule or any(_scheduled(part) for part in get_args(hint))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Schedule):
        yield from _numbers(value.scale)
    elif isinstance(value, (tuple, list)):
        yield from (number for item in value for number in _numbers(item))
    elif isinstance(value, (int, float)):
        yield float(value)
