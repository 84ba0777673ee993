"""How far each block of the model moves the picture, and the blocks that follow from it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...core import Rule
from ...errors import BadValue
from ..doctor.calibrate import Reach, entry, measure
from ..draw.sampling import arguments, generators
from .job import Ask, alone
from .model import Model
from .stack import Rules, changed, parse
from .watch import Watch, watched

USUAL = "pag=1.5"


@dataclass(frozen=True)
class Explored:
    """The reach of a rule on each block alone, and the blocks that reach farthest together."""

    rule: Rule
    reach: tuple[Reach, ...]
    layers: tuple[int, ...]


def explored_rule(rules: Rules) -> Rule:
    """The first weak branch on layers of a guidance; PAG where it has none."""
    found = next((rule for rule in rules if rule.kind == "weak" and hasattr(rule, "layers")), None)
    return found if found is not None else parse(USUAL)[0]


def explore(model: Model, ask: Ask, tell: Callable[[int, int], None], stop: threading.Event) -> Explored:
    """Measure. tell: called with blocks done, of how many. Raises `Stopped`."""
    rule = explored_rule(ask.rules)
    call = arguments(model.pipe, ask.jobs, ask.settings)
    watch = Watch(model, lambda *told: None, stop.is_set, pictures=False)

    def run(pipe: Any) -> None:
        watch.count = 0
        pipe(**call, generator=generators(list(ask.seeds)))

    with alone(model, stop), watched(watch):
        reach = measure(model.pipe, rule, run, tell)
    return Explored(rule, tuple(reach), tuple(entry(rule, reach, model.name)["values"]["layers"]))


def suggested(rules: Rules, found: Explored) -> Rules:
    """`rules` with the measured rule on the blocks that were found. Raises `BadValue` where it is no longer there."""
    at = next((at for at, rule in enumerate(rules) if rule.name == found.rule.name), None)
    if at is None:
        raise BadValue(f"{found.rule.name} is not in the guidance: add it first")
    return changed(rules, at, "layers", found.layers)
