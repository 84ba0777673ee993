"""Default parameters of one rule on one model, and the values that several models share."""

from dataclasses import dataclass
from typing import Any

from ..schedules import Interval, Window


@dataclass(frozen=True)
class Entry:
    """Default parameters of one rule on one model, and where they come from."""

    values: dict[str, Any]
    source: str


Defaults = dict[str, dict[str, Entry]]
"""Model class, then rule name."""

# candidate blocks as fractions of the depth; SD3's 6-8 of 24 and DiT's 12-15 of 28 are the published ones
EARLY, MIDDLE = (6 / 24, 7 / 24, 8 / 24), (12 / 28, 13 / 28, 14 / 28, 15 / 28)
SD3_WINDOW = Window.published(250, 50, 50)
DIT_WINDOW = Window.published(150, 50, 50, base=249)  # at the published 250 steps these are the step's indices themselves
SKIP = Interval(3.8, 0.01, 0.2, "progress")
