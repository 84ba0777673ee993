"""Settings of energy guidance that mean nothing, or nothing beside one another."""

from typing import Any

from ...errors import BadValue
from .numbers import check_score_field

LEAST = {"inner": 1, "recur": 1, "draws": 1, "steps": 1, "augment": 0, "smooth": 0, "clip": 0}
"""Least values of the fields that are bounded."""


def check_settings(rule: Any) -> None:
    """Raise `BadValue` for fields of an `Energy` that are out of range, or mean nothing beside one another."""
    check_score_field(rule.score, rule.name)
    for name, least in LEAST.items():
        if getattr(rule, name) < least:
            raise BadValue(f"energy {name} must be at least {least}, got {getattr(rule, name)}")
    if not 0 <= rule.eta <= 1:
        raise BadValue(f"energy eta must lie in [0, 1], got {rule.eta}")
    if len(rule.interval) != 2 or not 0 <= rule.interval[0] <= rule.interval[1] <= 1:
        raise BadValue(f"energy interval is two shares of the run, 0 <= first <= last <= 1, got {rule.interval}")
    odd = next((what for what, found in _together(rule).items() if found), None)
    if odd:
        raise BadValue(f"energy {odd}")


def _together(rule: Any) -> dict[str, bool]:
    """What is odd about settings beside one another, and whether it is so."""
    in_x_t = rule.through_network or rule.of == "noisy"
    return {
        "where=x_t needs through_network=true: x0 depends on x_t through the network alone":
            rule.where == "x_t" and not in_x_t,
        "of=noisy scores x_t itself: leave through_network out": rule.of == "noisy" and rule.through_network,
        "again=true evaluates the network at the moved x_t: say where=x_t": rule.again and rule.where != "x_t",
        "mean is a second strength, beside that through the network: say strength":
            rule.mean != 0 and not rule.through_network,
        "steps are through the network: say through_network=true": rule.steps > 1 and not rule.through_network,
        "lam is of a velocity that is moved through the network: say where=velocity,through_network=true":
            rule.lam is not None and (rule.where != "velocity" or not rule.through_network),
        "draws are of the noise that smooth adds: say smooth": rule.draws > 1 and not rule.smooth}
