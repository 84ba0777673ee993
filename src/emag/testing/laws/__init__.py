"""The table of laws that every rule obeys: ours, and those of others."""

from collections.abc import Iterator
from typing import Any

from ...core import Rule
from . import algebra, pipelines
from .law import Check, Law, LawBroken
from .pipelines import PIPELINES
from .trial import Trial, trial

LAWS: tuple[Law, ...] = (*algebra.laws(), *pipelines.laws())
"""All laws. A broken rule is told by the first that it breaks, so the plainest come first."""

__all__ = ["LAWS", "PIPELINES", "Check", "Law", "LawBroken", "Trial", "check", "checks", "trial"]


def checks(subject: Rule | Trial, neutral: Rule | None = None, **more: Any) -> Iterator[Check]:
    """What has to hold for a rule, one call each: made for `pytest.mark.parametrize`.

    Args:
        subject: the rule, at settings where it acts, with layers, window and scale given; or a `Trial`. Mild ones: random
            weights blow rounding up where a rule pushes hard.
        neutral: the rule switched off (scale 1, ...); None where it has no such setting.
        more: fields of `Trial`: `only=("dit",)`, `raw=True`, ...
    """
    tried = subject if isinstance(subject, Trial) else trial(subject, neutral, **more)
    applying = [law for law in LAWS if law.applies(tried)]
    yield from (Check(law, tried) for law in applying if not law.on_pipelines)
    for case in tried.only or PIPELINES:
        yield from (Check(law, tried, case) for law in applying if law.on_pipelines)


def check(subject: Rule | Trial, neutral: Rule | None = None, **more: Any) -> None:
    """Hold every law against a rule; seconds on a CPU. Arguments as those of `checks`.

    Raises `LawBroken` at the first law that it breaks, with the law's text and what was found.

    >>> from emag.testing import check
    >>> check(emag.CFG(3.0), emag.CFG(1.0), only=("sd3",))
    """
    for one in checks(subject, neutral, **more):
        one()
