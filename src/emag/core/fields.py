"""What all rules, schedules and samplers share: numbers are numbers, and finite, checked in one place as a value is made."""

import math
from collections.abc import Iterable
from dataclasses import fields
from functools import lru_cache
from numbers import Real
from types import NoneType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from ..errors import BadValue
from .docs import completed

NUMBERS = (float, int, bool)


class FiniteFields:
    """Base of frozen dataclasses of plain data. Raises `BadValue` for a number that is not finite, also inside a tuple, and
    for something else in a field that holds numbers, values like this one (a schedule), or tuples of them, and nothing more.
    A field whose type is a `Literal` holds one of its values. In what range numbers must lie, a subclass says in
    `__post_init__`.
    """

    scalar: ClassVar[bool] = True  # a value for one field of a rule; False for what has a meaning of its own in a list

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if getattr(cls, "name", "") and cls.__dict__.get("__doc__"):  # of a method: with what its bases explain
            cls.__doc__ = completed(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # in __new__, before __post_init__ of any subclass computes with what is wrong
        made: Any = cls
        for name, value in (*zip(_positional(made), args), *kwargs.items()):
            what, kinds = f"{getattr(cls, 'name', '') or cls.__name__.lower()} {name}", _numeric(made).get(name)
            check_finite(what, value)
            check_choice(what, value, _choices(made).get(name))
            if kinds and not _fits(value, kinds):
                raise BadValue(f"{what} must be {' or '.join(map(_word, kinds))}, got {value!r}")
        return super().__new__(cls)


def check_finite(what: str, value: Any) -> None:
    """Raise `BadValue` for a number that is not finite, or a tuple or list with one in it."""
    if any(not math.isfinite(number) for number in _floats(value)):
        raise BadValue(f"{what} must be finite, got {value!r}")


def check_choice(what: str, value: Any, among: tuple[Any, ...] | None) -> None:
    """Raise `BadValue` for what is not among some values; all pass where `among` is None."""
    if among is not None and not any(type(value) is type(one) and value == one for one in among):
        raise BadValue(f"{what} must be one of {', '.join(map(str, among))}, got {value!r}")


def choices_of(hint: Any) -> tuple[Any, ...] | None:
    """The values that a type allows, read off its `Literal`, None among them where it does; None for other types."""
    kinds = (hint,) if get_origin(hint) is Literal else get_args(hint)
    if not any(get_origin(kind) is Literal for kind in kinds):
        return None
    if any(get_origin(kind) is not Literal and kind is not NoneType for kind in kinds):
        return None  # something else is possible, too
    return tuple(value for kind in kinds for value in (get_args(kind) or (None,)))


def _floats(value: Any) -> Iterable[float]:
    if isinstance(value, (list, tuple)):
        return (number for item in value for number in _floats(item))
    return (float(value),) if isinstance(value, Real) and not isinstance(value, int) else ()


def _fits(value: Any, kinds: tuple[Any, ...]) -> bool:
    if value is None or (isinstance(value, str) and tuple[int, ...] in kinds):  # "auto", or a rule says what its layers are
        return True
    if isinstance(value, Real):  # one number for a tuple of them: some rules take that, the others say what they want
        return True
    if isinstance(value, (list, tuple)):
        items = [_kinds(get_args(kind)[0]) for kind in kinds if get_origin(kind) is tuple]
        return any(all(item is not None and _fits(item, inner) for item in value) for inner in items)
    return any(isinstance(value, kind) for kind in kinds if isinstance(kind, type) and issubclass(kind, FiniteFields))


def _word(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a list, each {' or '.join(map(_word, _kinds(get_args(kind)[0])))}"
    return {float: "a number", int: "a whole number", bool: "true or false"}.get(kind) or f"a {kind.__name__.lower()}"


@lru_cache(maxsize=256)
def _positional(cls: Any) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls) if f.init and not f.kw_only)


@lru_cache(maxsize=256)
def _hints(cls: Any) -> dict[str, Any]:
    """Types of the fields; none where some are of names that only a type checker sees, as a rule of the user's may have."""
    try:
        hints = get_type_hints(cls)
    except NameError:
        return {}
    return {f.name: hints[f.name] for f in fields(cls)}


@lru_cache(maxsize=256)
def _choices(cls: Any) -> dict[str, tuple[Any, ...]]:
    """The values that a field may hold, of those with few."""
    found = {name: choices_of(hint) for name, hint in _hints(cls).items()}
    return {name: among for name, among in found.items() if among is not None}


@lru_cache(maxsize=256)
def _numeric(cls: Any) -> dict[str, tuple[Any, ...]]:
    """What a field may hold, but for None, of those that hold numbers, schedules and tuples of them alone."""
    found = {name: _kinds(hint) for name, hint in _hints(cls).items()}
    return {name: kinds for name, kinds in found.items() if all(map(_plain, kinds))}


def _kinds(hint: Any) -> tuple[Any, ...]:
    kinds = (hint,) if get_origin(hint) is tuple or not get_args(hint) else get_args(hint)
    return tuple(kind for kind in kinds if kind is not NoneType)


def _plain(kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return all(part is Ellipsis or any(map(_plain, _kinds(part))) for part in get_args(kind))
    return kind in NUMBERS or (isinstance(kind, type) and issubclass(kind, FiniteFields) and kind.scalar)
