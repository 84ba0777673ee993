"""Which rules have a scale that is exact for first-order deterministic steps only."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

from ..core import Rule
from ..errors import Unsupported
from ..schedules import Schedule
from .base import Solver


def needy(rules: Sequence[Rule]) -> str | None:
    """The first such rule with its scale, in words; None where there is none."""
    own = (f"{rule.name} with these settings" for rule in rules if rule.first_order)
    found = (f"{rule.name} at the scale {one.name}" for rule in rules for one in schedules_of(rule) if one.first_order)
    return next(chain(own, found), None)


def schedules_of(value: Any) -> Iterator[Schedule]:
    """The schedules in a rule, at whatever depth."""
    if isinstance(value, Schedule):
        yield value
    parts = [getattr(value, f.name) for f in fields(value)] if is_dataclass(value) else value
    for part in parts if isinstance(parts, (list, tuple)) else ():
        yield from schedules_of(part)


def check_solver(rules: Sequence[Rule], solver: Solver) -> None:
    """Raise `Unsupported` where a rule's scale is exact for other steps than those of `solver`."""
    found = needy(rules)
    if found and not solver.first_order:
        raise Unsupported(f"{found} is exact for first-order deterministic steps only, and {solver.name} makes others: use "
                          "Euler, or a plain scale")
