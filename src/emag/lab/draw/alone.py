"""The weak branch alone: the picture that a rule pushes away from."""

from collections.abc import Sequence
from dataclasses import fields, replace

from ...core import Rule


def weak_alone(rules: Sequence[Rule], at: int = -1) -> tuple[Rule, ...] | None:
    """`rules` up to rule `at`, that one at scale 0, where its push p + (w - 1) (cond - weak) gives the weak branch itself.

    None where the rule pushes away from nothing.
    """
    rule = rules[at] if rules else None
    if rule is None or rule.kind != "weak" or "scale" not in {f.name for f in fields(rule)}:
        return None
    before = rules[:at] if at != -1 else rules[:-1]
    return (*before, replace(rule, scale=0.0))  # type: ignore[call-arg]
