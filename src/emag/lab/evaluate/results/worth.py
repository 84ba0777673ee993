"""Which guidance is worth its evaluations: gains over the base against further block evaluations, of all stored results."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ....errors import BadValue
from ..metrics.bootstrap import Estimate
from ..pareto import front
from .numbers import Results, Row
from .world_page import SAME

ASKED = ("correct", "residual", "fd", "accuracy", "realism", "discriminator")
"""What may be asked of a method first; each model's page has some of them."""


@dataclass(frozen=True)
class Gain:
    """What one recipe gives over the base, and what it takes.

    more: further block evaluations, as a share of the base's; below 0 it saves some. by: paired differences by metric,
    signed so that above 0 is better. clear: of these, those told from 0 after the page's correction for many recipes.
    """

    row: Row
    more: float
    by: dict[str, Estimate] = field(default_factory=dict)
    clear: frozenset[str] = frozenset()

    def better(self, metric: str) -> bool:
        """Clearly better than the base in a metric."""
        return metric in self.clear and self.by[metric].value > 0

    def worse(self, metric: str) -> bool:
        """Clearly worse than the base in a metric."""
        return metric in self.clear and self.by[metric].value < 0


def asked(results: Results) -> list[str]:
    """The metrics that decide, of those that a page has."""
    return [name for name in ASKED if name in results.metrics]


def gains_of(results: Results) -> list[Gain]:
    """Every compared recipe but the base, cheapest first. Recipes without counted evaluations are left out."""
    whole = results.base.evaluations
    rows = [row for row in results.compared if row.name != results.against and row.evaluations]
    found = [Gain(row, (row.evaluations or 0) / whole - 1, _signed(results, row), _clear(results, row))
             for row in rows] if whole else []
    return sorted((one for one in found if one.by), key=lambda one: (round(one.more, 3), one.row.name))


def _signed(results: Results, row: Row) -> dict[str, Estimate]:
    found = results.differences(row, results.against)
    return {name: found[name] if results.metrics[name].higher else _turned(found[name])
            for name in asked(results) if name in found}


def _turned(one: Estimate) -> Estimate:
    return replace(one, value=-one.value, low=-one.high, high=-one.low)


def _clear(results: Results, row: Row) -> frozenset[str]:
    held = results.differences(row, results.against)
    return frozenset(name for name in asked(results) if name in held and results.clear(row, results.against, name))


def check_once(found: Sequence[Results]) -> None:
    """Raises `BadValue` for a recipe that stands in two pages of one model: which of them would count?"""
    seen = [(model_of(results), one.row.name) for results in found for one in gains_of(results)]
    if doubled := [name for (model, name) in seen if seen.count((model, name)) > 1]:
        raise BadValue(f"recipe {doubled[0]} of a model is in two of the files; give one file of each")


def by_model(found: Sequence[Results]) -> dict[str, dict[str, Gain]]:
    """The gains of each model by recipe, from all of its pages."""
    models: dict[str, dict[str, Gain]] = {}
    for results in found:
        models.setdefault(model_of(results), {}).update({one.row.name: one for one in gains_of(results)})
    return models


def model_of(results: Results) -> str:
    """The model that a page is about."""
    return str(results.run["model"]["id"])


def on_front(gains: Sequence[Gain], metric: str) -> list[Gain]:
    """Recipes that gain, and that no other beats in both the gain and the evaluations; by values, cheapest first.

    The base stands at (0, 0), and a recipe that costs more than it must gain more.
    """
    known = [one for one in gains if metric in one.by]
    at = np.array([(0.0, 0.0), *((_cost(one), one.by[metric].value) for one in known)])
    there = front(at, (False, True))[1:]
    return [one for one, on in zip(known, there) if on]


def _cost(one: Gain) -> float:
    """The price, 0 for what counts as none: two recipes of the base's evaluations are equally cheap."""
    return 0.0 if abs(one.more) <= SAME else one.more


def free(one: Gain) -> bool:
    """True where a recipe takes no more evaluations than the base."""
    return one.more <= SAME


def saves(one: Gain, metrics: Sequence[str]) -> bool:
    """True where it takes fewer evaluations than the base and is clearly worse in none of the metrics."""
    return one.more < -SAME and not any(one.worse(name) for name in metrics)
