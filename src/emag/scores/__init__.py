"""Ready scores: functions of images [batch, 3, height, width] in [0, 1] that give one number for each, higher is better."""

from collections.abc import Callable

from ..core import Score
from ..errors import BadValue
from ..near import choices
from .classes import OfClass, classes
from .plain import Colour, Distance, Edges, edges

__all__ = ["NAMED", "Colour", "Distance", "Edges", "OfClass", "classes", "edges", "named"]


def _colour(text: str) -> Score:
    parts = text.split(":")
    if len(parts) != 3:
        raise BadValue(f"a colour is red:green:blue, each in [0, 1], e.g. colour:0.9:0.1:0.1, got {text!r}")
    return Colour(*map(_number, parts))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadValue(f"{text!r} is no number") from None


NAMED: dict[str, Callable[[str], Score]] = {
    "classifier": OfClass, "colour": _colour, "edges": lambda text: Edges(_number(text)) if text else Edges()}
"""Scores that a text can say in full: a name, then what it needs behind a colon."""


def named(text: str) -> Score:
    """The score that a text says: "classifier:frog", "colour:0.9:0.1:0.1", "edges:0.2". Raises `BadValue`."""
    name, _, rest = text.partition(":")
    if name not in NAMED:
        raise BadValue(f"there is no score {text!r}; {choices(name, NAMED, 'by name there are')}; others are given as "
                       "scores={'mine': a function}")
    return NAMED[name](rest)
