"""What a person moves: a control for each field of a rule, its words, choices and ends read from the rule itself.

The words are those of the docstring. Choices are the quoted words of that docstring which the rule takes; the ends of a
slider are the outermost of a few values which it takes. So a range is written once, where the rule checks it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from types import NoneType
from typing import Any, Literal, get_args

from ...core import Rule, Schedule
from ...core.docs import fields_of
from ...errors import EmagError
from ...methods.common.values import hints_of, type_name
from .stack import value_text

Kind = Literal["slider", "choice", "switch", "text"]

LOWEST = (-2.0, -1.0, -0.99, 0.0, 0.01, 1.0)
HIGHEST = (10.0, 4.0, 2.0, 1.0, 0.99)
"""Values that are tried, from the outermost on; of those that a rule takes, the first is an end of its slider."""
FARTHER = 4
"""A default above the highest is somewhere in the first quarter of its slider."""
QUOTED = re.compile(r'"([^"]+)"')
NO_WORD = "no such word"


@dataclass(frozen=True)
class Control:
    """One field of a rule as a person sees it. value: what it is on this model. low, high, step: of a slider."""

    field: str
    kind: Kind
    about: str
    value: Any
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    choices: tuple[str, ...] = ()


def controls(rule: Rule, resolved: Rule | None = None) -> tuple[Control, ...]:
    """The controls of a rule. resolved: the same with the defaults of a model, which are shown where it names no value."""
    told, shown = fields_of(type(rule)), resolved or rule
    return tuple(_control(rule, one.name, getattr(shown, one.name), told.get(one.name, "")) for one in fields(rule))


def _control(rule: Rule, field: str, value: Any, told: str) -> Control:
    cls: Any = type(rule)
    hint = hints_of(cls)[field]
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    about = told or type_name(hint)
    if kinds == [bool] and value is not None:
        return Control(field, "switch", about, value)
    if kinds == [str] and (choices := choices_of(cls, field, value_text(value))):
        return Control(field, "choice", about, value_text(value), choices=choices)
    number = type(value) in (int, float) and set(kinds) <= {int, float, Schedule}
    if number and (ends := _ends(rule, field, value)):
        return Control(field, "slider", about, value, *ends, step=1 if kinds == [int] else 0.01)
    return Control(field, "text", about, value_text(value))


@lru_cache(maxsize=1024)
def choices_of(cls: Any, field: str, default: str) -> tuple[str, ...]:
    """The words that a field takes; empty where it takes any word.

    A word that is refused beside the other values, but not as no word at all, is one of them.
    """
    plain = _plain(cls)
    unknown = _refusal(plain, field, NO_WORD) if plain is not None else ""
    if not unknown:
        return ()
    words = dict.fromkeys([default, *QUOTED.findall(fields_of(cls).get(field, ""))])
    return tuple(word for word in words if word == default
                 or _refusal(plain, field, word) != unknown.replace(NO_WORD, word))


def _plain(cls: type[Rule]) -> Rule | None:
    try:
        return cls()
    except (TypeError, EmagError):  # some need a value that no default can name
        return None


def _ends(rule: Rule, field: str, value: float) -> tuple[float, float] | None:
    """The ends of a slider; None where the rule takes nothing beside its value."""
    kind = type(value)
    whole = hints_of(type(rule))[field] in (int, int | None)
    far = (FARTHER * abs(value),) if abs(value) > HIGHEST[0] else ()
    low = _first(rule, field, [kind(end) for end in LOWEST if end <= value and (not whole or end == int(end))])
    high = _first(rule, field, [kind(end) for end in (*far, *HIGHEST) if end >= value and (not whole or end == int(end))])
    return (low, high) if low is not None and high is not None and low < high else None


def _first(rule: Rule, field: str, values: Iterable[float]) -> float | None:
    return next((value for value in values if not _refusal(rule, field, value)), None)


def _refusal(rule: Any, field: str, value: Any) -> str:
    """Why a rule does not take a value; empty where it does."""
    try:
        replace(rule, **{field: value})
    except EmagError as error:
        return str(error)
    return ""
