"""What a person moves: a control for each field of a rule, its words, choices and ends read from the rule itself.

The words are those of the docstring, choices those of the field's type. The ends of a slider are the outermost of a few
values which the rule takes. So a range is written once, where the rule checks it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any, Literal, get_args

from ...core import Rule, Schedule
from ...core.docs import fields_of
from ...core.fields import choices_of
from ...errors import EmagError
from ...methods.common.values import hints_of, type_name
from .stack import value_text

Kind = Literal["slider", "choice", "switch", "text"]

LOWEST = (-2.0, -1.0, -0.99, 0.0, 0.01, 1.0)
HIGHEST = (10.0, 4.0, 2.0, 1.0, 0.99)
"""Values that are tried, from the outermost on; of those that a rule takes, the first is an end of its slider."""
FARTHER = 4
"""A default above the highest is somewhere in the first quarter of its slider."""


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
    hint = hints_of(type(rule))[field]
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    about = told or type_name(hint)
    if kinds == [bool] and value is not None:
        return Control(field, "switch", about, value)
    if choices := choices_of(hint):
        return Control(field, "choice", about, value_text(value), choices=tuple(map(value_text, choices)))
    number = type(value) in (int, float) and set(kinds) <= {int, float, Schedule}
    if number and (ends := _ends(rule, field, value)):
        return Control(field, "slider", about, value, *ends, step=1 if kinds == [int] else 0.01)
    return Control(field, "text", about, value_text(value))


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
