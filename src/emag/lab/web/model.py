"""A model that is loaded once and serves one run at a time, and what it cannot do."""

import inspect
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...core import Rule
from ...engine.network import Network
from ...engine.reading import read_network
from ...errors import EmagError
from ...families import Host
from ...hosts.checks import check_pipeline_call, check_rules
from ...hosts.defaults import models_of, resolved
from ...hosts.load import load
from ...hosts.lookup import denoisers, host_of
from ...hosts.own_guider import with_scale
from ...methods import METHODS
from ...methods.combining.cfg import CFG
from ..draw.sampling import DrawSettings, Job, arguments
from ..draw.showcase import SKIPPED, columns
from .stack import text_of

USUAL_STEPS = 28
KINDS = ("condition", "attention", "weak", "null", "combining", "after", "energy")


@dataclass
class Model:
    """A pipeline by its name. lock: held while it draws, since a network serves one guided run at a time."""

    name: str
    pipe: Any
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def host(self) -> Host:
        """What we know of the pipeline's class."""
        return host_of(self.pipe)

    @cached_property
    def network(self) -> Network:
        """Its network, read before any run."""
        return read_network(denoisers(self.pipe, self.host)[0])

    @property
    def usual(self) -> dict[str, Any]:
        """The arguments of a call that names none."""
        known = inspect.signature(type(self.pipe).__call__).parameters
        return {name: one.default for name, one in known.items() if one.default is not one.empty}

    @property
    def steps(self) -> int:
        """Steps of a call that names none."""
        return self.usual.get("num_inference_steps") or USUAL_STEPS

    @property
    def scale(self) -> float | None:
        """The pipeline's own guidance scale, where it has one."""
        return None if self.host.guider else self.usual.get(self.host.scale or "")

    @property
    def example(self) -> str:
        """A prompt that the model can draw."""
        if self.host.prompt == "class_labels":
            return "207"
        return "a red circle above a blue square" if self.name == "shapes" else "a photo of a ship"

    def resolved(self, rules: Sequence[Rule]) -> tuple[Rule, ...]:
        """`rules` with the defaults of this model. Raises `BadValue` and `Unsupported`."""
        return resolved(rules, models_of(self.pipe), self.network)

    def call(self, job: Job, settings: DrawSettings) -> dict[str, Any]:
        """All arguments of a call of the pipeline for one image. Raises `BadValue`."""
        given = arguments(self.pipe, [job], settings)
        return dict(with_scale({**self.usual, **given}, self.host, self.pipe))

    def check(self, rules: Sequence[Rule], call: dict[str, Any]) -> tuple[Rule, ...]:
        """The rules that act in a call. Raises `BadValue` and `Unsupported`: whatever can be told before it."""
        active = tuple(rule for rule in self.resolved(rules) if not rule.neutral)
        check_rules(active, [self.network])
        if active:
            check_pipeline_call(active, self.host, [self.network], call)
        return active

    @cached_property
    def refused(self) -> dict[str, str]:
        """The methods that cannot work here, or not in words, and why: each in the form in which it usually acts."""
        found = {name: reason for name, reason in SKIPPED.items() if name in METHODS}
        call = self.call(Job(self.example, None, 0), DrawSettings())
        for column in columns(KINDS):
            own = {self.host.scale: column.scale} if column.scale is not None and self.host.scale else {}
            try:
                self.check(column.rules, {**call, **own})
                text_of(column.rules)
            except EmagError as error:
                found[column.label] = str(error)
        return found


def opened(name: str = "tiny", **given: Any) -> Model:
    """A model ready to draw, its own progress bar off. given: as for `emag.load`, which raises."""
    pipe = load(name, **given)
    pipe.set_progress_bar_config(disable=True)
    return Model(name, pipe)


def example_rules() -> dict[str, tuple[Rule, ...]]:
    """The rules that a method is added as, by its name: at its defaults, or with what it needs to act."""
    found = {column.label: column.rules for column in columns(KINDS)}
    # a column of its own would be the pipeline alone; named, it is what other rules can follow
    found[CFG.name] = (CFG(),)
    return {name: tuple(rule for rule in rules if rule.name == name) for name, rules in found.items()}
