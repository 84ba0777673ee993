"""A guidance as text and as rules: `emag=1.5 seg=1.2,sigma=4`. A text with blanks or commas in it is quoted."""

from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from typing import Any

from ...core import AUTO, Rule, Schedule
from ...errors import BadValue
from ...methods.common.quotes import quoted, words
from ...methods.common.values import from_text, hints_of
from ...records import recipe
from ...schedules import Window

MOST_RULES = 16
LONGEST = 4000
"""Characters of a guidance in words, of which the page reads no more."""

Rules = tuple[Rule, ...]


def parse(text: str) -> Rules:
    """Rules from their text. Raises `BadValue`."""
    if len(text) > LONGEST:
        raise BadValue(f"a guidance has at most {LONGEST} characters, got {len(text)}")
    found = words(text)
    if len(found) > MOST_RULES:
        raise BadValue(f"a guidance has at most {MOST_RULES} rules, got {len(found)}")
    return tuple(recipe.parse(word) for word in found)


def text_of(rules: Sequence[Rule]) -> str:
    """The text that `parse` reads back. Raises `BadValue` for a rule that has none."""
    return " ".join(short(rule) for rule in rules)


def short(rule: Rule) -> str:
    """One rule in the short form of the command line, without what is at its default.

    Raises `BadValue` for a rule that the form cannot hold: one with a list of terms.
    """
    given = {one.name: value_text(getattr(rule, one.name)) for one in fields(rule) if _given(rule, one)}
    first = next(iter(hints_of(type(rule))), "")
    head = f"{rule.name}={given.pop(first)}" if first in given else rule.name
    text = ",".join([head, *(f"{name}={value}" for name, value in given.items())])
    try:
        held = recipe.parse(text) == rule
    except BadValue:
        held = False
    if not held:
        raise BadValue(f"{rule.name} with these values has no short form: keep it as a recipe, {recipe.to_data([rule])}")
    return text


def _given(rule: Rule, field: Any) -> bool:
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return (field.default is MISSING and field.default_factory is MISSING) or getattr(rule, field.name) != default


def value_text(value: Any) -> str:
    """A value as the short form has it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value).removesuffix(".0")
    if isinstance(value, Schedule):
        own = [one.name for one in fields(value) if getattr(value, one.name) != one.default]
        return ":".join([value.name, *(f"{name}={value_text(getattr(value, name))}" for name in own)])
    if isinstance(value, Window):
        return _window(value)
    if isinstance(value, tuple):
        return "auto" if value == AUTO else _listed(value)
    return quoted(value) if isinstance(value, str) else str(value)


def _window(window: Window) -> str:
    rest = (f":base={window.base}" if window.base != Window.base else "") + (":hold" if window.hold else "")
    return ":".join([window.unit, *map(value_text, (window.start, window.delta, window.stop))]) + rest


def _listed(values: tuple[Any, ...]) -> str:
    """Names and numbers in a row; blocks that follow one another as 6-8."""
    whole = all(type(value) is int for value in values)
    if whole and len(values) > 2 and values == tuple(range(values[0], values[-1] + 1)):
        return f"{values[0]}-{values[-1]}"
    return "+".join(map(value_text, values))


def changed(rules: Rules, at: int, field: str, value: Any) -> Rules:
    """`rules` with one field of one rule at `value`: of its type, or a text in the short form. Raises `BadValue`."""
    rule = rules[at]
    if isinstance(value, str):
        value = from_text(field, value, hints_of(type(rule))[field])
    return (*rules[:at], replace(rule, **{field: value}), *rules[at + 1:])


def moved(rules: Rules, at: int, by: int) -> Rules:
    """`rules` with one moved by so many places, as far as there are places."""
    rest = [*rules[:at], *rules[at + 1:]]
    rest.insert(min(max(at + by, 0), len(rest)), rules[at])
    return tuple(rest)


def without(rules: Rules, at: int) -> Rules:
    """`rules` without one of them."""
    return (*rules[:at], *rules[at + 1:])


def data_of(rules: Sequence[Rule]) -> dict[str, Any]:
    """The recipe of these rules, as JSON-ready data."""
    return {"rules": recipe.to_data(rules)}


