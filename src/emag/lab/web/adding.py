"""A method added to a guidance: the place at which it works with the rules that are there, or why there is none."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...core import Rule
from ...errors import BadValue, EmagError
from .model import Model, example_rules
from .stack import Rules

log = logging.getLogger("emag")


def added(model: Model, rules: Rules, name: str, call: Mapping[str, Any]) -> Rules:
    """`rules` with a method in its usual form. Raises `BadValue` with the reason for which it cannot be added."""
    new = example_rules().get(name, ())
    why = model.refused.get(name) or (None if new else "it has no usual form")
    with _unheard():
        found, reason = _placed(model, rules, new, call)
        why = why or _own(reason, _reason(model, rules, call))
    if why:
        raise BadValue(f"{name} cannot be added here: {why}")
    return found


def apart(model: Model, rules: Rules, call: Mapping[str, Any]) -> dict[str, str]:
    """The methods that work on this model, and nowhere among these rules; each with the reason."""
    with _unheard():
        before = _reason(model, rules, call)
        tried = {name: _own(_placed(model, rules, new, call)[1], before) for name, new in example_rules().items()
                 if name not in model.refused}
    return {name: reason for name, reason in tried.items() if reason}


def _placed(model: Model, rules: Rules, new: tuple[Rule, ...], call: Mapping[str, Any]) -> tuple[Rules, str]:
    """`rules` with `new` at the last place where all can work, else at the end with the reason why they cannot."""
    stacks = [(*rules[:at], *new, *rules[at:]) for at in range(len(rules), -1, -1)]
    reasons = (_reason(model, stack, call) for stack in stacks)
    first = next(reasons)
    if not first:
        return stacks[0], ""
    return next(((stack, "") for stack, reason in zip(stacks[1:], reasons) if not reason), (stacks[0], first))


def _reason(model: Model, rules: Rules, call: Mapping[str, Any]) -> str:
    """Why rules are refused in a call; empty where they are not."""
    try:
        model.check(rules, dict(call))
    except EmagError as error:
        return str(error)
    return ""


def _own(reason: str, before: str) -> str:
    """A reason for which a method is to blame: rules that were refused before it was there are none of its fault."""
    return "" if reason == before else reason


@contextmanager
def _unheard() -> Iterator[None]:
    """What trials say is not for the terminal; what other threads say meanwhile is."""
    own = threading.get_ident()

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != own

    log.addFilter(elsewhere)
    try:
        yield
    finally:
        log.removeFilter(elsewhere)
