"""What methods remember from one step to the next."""

from typing import Any

from ...core import Step


def moves_on(step: Step, state: dict[str, Any]) -> bool:
    """True the first time a noise level is seen in a run: then, and only then, a method updates what it remembers.

    A solver of second order evaluates some levels twice. The second time a method acts with what it has.
    """
    new = state.get("level") != step.index
    state["level"] = step.index
    return new


def previous(step: Step, state: dict[str, Any], value: Any) -> Any:
    """What was given here at the noise level before, None at the first; `value` is remembered for the next."""
    if moves_on(step, state):
        state["before"], state["last"] = state.get("last"), value
    return state["before"]
