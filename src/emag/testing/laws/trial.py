"""What the laws are held against: one rule, at settings where it acts, in a guidance that shows it."""

from dataclasses import dataclass
from typing import Any

from ...core import Rule

INSIDE = ("condition", "attention", "weak")
"""Kinds of rules that look into the network, or at its condition: predictions alone do not show them."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One rule in a guidance that shows it."""

    name: str
    """Its name in messages."""
    rules: tuple[Rule, ...]
    """The guidance, the rule last."""
    neutral: tuple[Rule, ...] | None = None
    """The same guidance with the rule switched off; None where leaving it out is the only way."""
    raw: bool = False
    """It works on the network's own output, so prediction spaces differ."""
    sees: bool = False
    """It needs more than predictions (weak branches, conditions, maps), so the laws in pipelines alone apply."""
    guess: bool = False
    """It decides from the predictions, so a plan of its evaluations is an upper bound."""
    only: tuple[str, ...] = ()
    """Small pipelines (`emag.testing.small.CASES`) it can run on; () for all that have unconditional rows."""
    more: tuple[tuple[str, Any], ...] = ()
    """Further arguments of `emag.guide`, by name."""


def trial(rule: Rule, neutral: Rule | None = None, *before: Rule, **more: Any) -> Trial:
    """The trial of a rule; `before` comes before it in the guidance, `more` are fields of `Trial`.

    `sees` is that of the rule's kind where it is not given.
    """
    settings = {"sees": rule.kind in INSIDE or bool(rule.weak), **more}
    return Trial(rule.name, (*before, rule), None if neutral is None else (*before, neutral), **settings)
