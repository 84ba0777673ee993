"""Parameter values by type: from JSON data, from the short text form, and back to data."""

import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from ...core import AUTO
from ...core.fields import check_choice, choices_of
from ...errors import BadValue
from ...near import choices
from ...schedules import SCHEDULES, Schedule, Window
from ...schedules.window import WindowUnit
from .quotes import parts, unquoted

Made = TypeVar("Made")
MOST_BLOCKS = 10_000

NAMES: dict[Any, str] = {float: "number", int: "whole number", bool: "true or false", str: "word", Schedule: "schedule",
                         Window: "window"}


def make_value(name: str, kind: type[Made], values: Any) -> Made:
    """A dataclass from data, every key and value checked against its fields. Raises `BadValue`."""
    hints = hints_of(kind)
    if not isinstance(values, dict):
        raise BadValue(f"the parameters of {name} must be an object, got {values!r}")
    refuse_odd(name, list(values), kind)
    return kind(**{key: checked(f"{name} {key}", value, hints[key]) for key, value in values.items()})


def refuse_odd(name: str, keys: list[str], kind: Any) -> None:
    """Raise `BadValue` where a key is no parameter of the dataclass `kind`, or one without default is not there."""
    names = [f.name for f in fields(kind)]
    twice = [key for key in names if keys.count(key) > 1]
    if twice:
        raise BadValue(f"{name} names {', '.join(twice)} twice")
    unknown = [key for key in keys if key not in names]
    if unknown:
        raise BadValue(f"{name} has no parameter {', '.join(map(repr, unknown))}; {choices(unknown[0], names, 'it has')}")
    missing = [f.name for f in fields(kind)
               if f.default is MISSING and f.default_factory is MISSING and f.name not in keys]
    if missing:
        raise BadValue(f"{name} needs {', '.join(missing)}")


def hints_of(kind: Any) -> dict[str, Any]:
    """Types of the fields of a dataclass, by name."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def checked(where: str, value: Any, hint: Any) -> Any:
    """`value` as a field of type `hint` takes it; data for nested values is turned into them. Raises `BadValue`."""
    if (among := choices_of(hint)) is not None:
        check_choice(where, value, among)
        return value
    for kind in _kinds(hint):
        found = _fitted(where, value, kind)
        if found is not _NO:
            return found
    raise BadValue(f"{where} cannot be {value!r}; it is a {type_name(hint)}")


_NO: Any = object()


def _fitted(where: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        return _tuple(where, value, kind)
    if value == "auto" and kind == tuple[int, ...]:
        return AUTO
    if isinstance(value, dict) and kind is Schedule:
        return _schedule(where, value)
    if isinstance(value, dict) and is_dataclass(kind):
        return make_value(where, kind, value)  # type: ignore[arg-type]
    if kind is float and type(value) in (int, float):
        return float(value) if abs(value) <= sys.float_info.max else _NO
    if get_origin(kind) is Literal:  # beside other types; which word it may be, the class knows
        return value if isinstance(value, str) else _NO
    return value if isinstance(kind, type) and type(value) is kind else _NO


def _tuple(where: str, value: Any, kind: Any) -> Any:
    try:
        return tuple(checked(where, item, get_args(kind)[0]) for item in value)
    except BadValue:
        if any(isinstance(item, dict) for item in value):
            raise
        return _NO


def _schedule(where: str, value: dict[str, Any]) -> Schedule:
    name = value.get("schedule")
    if name not in SCHEDULES:
        raise BadValue(f"{where}: there is no schedule {name!r}; {choices(str(name), SCHEDULES)}")
    return make_value(str(name), SCHEDULES[name], {key: item for key, item in value.items() if key != "schedule"})


def to_plain(value: Any) -> Any:
    """A parameter's value as JSON-ready data. Raises `BadValue` for a function, which is none."""
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if callable(value):
        raise BadValue(f"{getattr(value, '__name__', type(value).__name__)!r} is a function, which a recipe cannot hold")
    if is_dataclass(value) and not isinstance(value, type):
        held = {f.name: to_plain(getattr(value, f.name)) for f in fields(value)
                if not isinstance(value, Schedule) or getattr(value, f.name) != f.default}
        return {"schedule": value.name, **held} if isinstance(value, Schedule) else held
    return value


# the short form


def from_text(key: str, text: str, hint: Any) -> Any:
    """The value of parameter `key` from its short form. Raises `BadValue`."""
    kinds = _kinds(hint)
    if text.lower() in ("none", "") and NoneType in kinds:
        return None
    reason = ""
    for kind in kinds:
        try:
            return _reader(kind)(text)
        except BadValue as error:
            reason = f": {error}"
        except (ValueError, KeyError):
            continue
    raise BadValue(f"{key}={text} is not a {type_name(hint)}{reason}")


def schedule(text: str) -> Schedule:
    """A schedule from "name:scale:key=value:...", e.g. "interval:4:low=0.2:high=1.6"."""
    name, *parts = (part.strip() for part in text.split(":"))
    if name not in SCHEDULES:
        raise BadValue(f"there is no schedule {name!r}; {choices(str(name), SCHEDULES)}")
    hints, given = hints_of(SCHEDULES[name]), []
    for at, part in enumerate(parts):
        key, equals, value = part.partition("=")
        given.append((key, value) if equals else (list(hints)[min(at, len(hints) - 1)], part))
    refuse_odd(name, [key for key, _ in given], SCHEDULES[name])
    return SCHEDULES[name](**{key: from_text(key, value, hints[key]) for key, value in given})


def layers(text: str) -> tuple[int, ...]:
    """Block numbers from "6-8" or "2+5+7"; AUTO from "auto". No network has `MOST_BLOCKS`."""
    if text == "auto":
        return AUTO
    found: list[int] = []
    for part in text.split("+"):
        low, dash, high = part.partition("-")
        first, last = int(low), int(high if dash else low)
        if not first <= last < MOST_BLOCKS:
            raise BadValue(f"blocks {part} run backwards" if last < first else f"there is no block {last}")
        found += range(first, last + 1)
    return tuple(found)


def window(text: str) -> Window:
    """A window from "unit:start:delta:stop[:base=N][:hold]", e.g. "published:250:50:50" or "progress:0:0.2:0.8"."""
    unit, *parts = text.split(":")
    numbers = [part for part in parts if part != "hold" and not part.startswith("base=")]
    if len(numbers) != 3 or parts[:3] != numbers:
        raise BadValue("write a window as unit:start:delta:stop, e.g. progress:0:0.2:0.8; :hold and :base=N may follow")
    base = next((int(part.removeprefix("base=")) for part in parts if part.startswith("base=")), Window.base)
    start, delta, stop = (float(n) for n in numbers)
    return Window(start, delta, stop, cast(WindowUnit, unit), base, hold="hold" in parts)  # it refuses what is no unit


def _schedule_word(text: str) -> Schedule:
    if not text[:1].isalpha() or text.lower() in ("nan", "inf", "infinity"):
        raise ValueError(text)
    return schedule(text)


READERS: dict[Any, Callable[[str], Any]] = {
    float: float, int: int, str: unquoted, bool: lambda text: {"true": True, "false": False}[text.lower()],
    Schedule: _schedule_word, Window: window, tuple[int, ...]: layers,
    tuple[float, ...]: lambda text: tuple(float(part) for part in text.split("+")),
    tuple[str, ...]: lambda text: tuple(map(unquoted, parts(text, "+"))),
}


def _reader(kind: Any) -> Callable[[str], Any]:
    """What reads a short form. Of words of which there are few, others than those are refused as the value is made."""
    if get_origin(kind) is Literal:
        return lambda text: {str(one): one for one in get_args(kind)}.get(text, text)
    return READERS[kind]


def _kinds(hint: Any) -> list[Any]:
    """The types a hint allows, readable ones in the order in which a value is tried: whole numbers before words."""
    kinds = [hint] if get_origin(hint) in (tuple, Literal) else list(get_args(hint)) or [hint]
    return sorted(kinds, key=lambda kind: kind is str or get_origin(kind) is Literal)


def type_name(hint: Any) -> str:
    """A type in words."""
    return " or ".join(_type_name(kind) for kind in _kinds(hint) if kind is not NoneType)


def _type_name(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return {int: "list of block numbers", float: "list of numbers", str: "list of names"}.get(get_args(kind)[0], "list")
    if get_origin(kind) is Callable:
        return "function"
    if get_origin(kind) is Literal:
        return NAMES[type(get_args(kind)[0])]
    return NAMES.get(kind) or f"set of {kind.__name__.lower()} values"
