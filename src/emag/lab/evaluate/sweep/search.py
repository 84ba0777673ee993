"""`sweep`: makes the trials, measures them, and says which are best. The same call finishes one that was killed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....errors import BadValue
from ..folder import RunFolder
from ..metrics import measure, reference
from ..metrics.measure import Result
from ..metrics.table import METRICS
from ..pareto import front
from ..run import Total, first, run
from .space import Point, label, opens
from .spec import SweepSpec
from .study import Study, study

STORED = "sweep.json"
EARLY = 0.25  # of its images, after which a trial may be given up


@dataclass
class Trial:
    """One setting of one recipe: its data, and what it measured (none yet, or given up early)."""

    name: str
    recipe: str
    point: Point
    data: Any
    results: dict[str, Result] = field(default_factory=dict)
    given_up: bool = False

    @property
    def summary(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {"trial": self.name, "recipe": self.recipe, "setting": label(self.point), "data": self.data,
                "given_up": self.given_up, "results": {name: one.data for name, one in self.results.items()}}


@dataclass
class Sweep:
    """A sweep at work."""

    spec: SweepSpec
    folder: RunFolder
    plan: measure.Plan
    begun: Total | None = None
    engine: str | None = None
    workers: int | None = None
    trials: list[Trial] = field(default_factory=list)

    def make(self, new: Sequence[Trial], share: float = 1.0) -> None:
        """Make the images of trials, all or a share of them, and measure these."""
        held = self.folder.run["spec"]["recipes"] if self.folder.exists else {}
        spec = self.spec.run({**held, **{trial.name: trial.data for trial in new}})
        shares = {trial.name: share for trial in new}
        self.folder = run(spec, self.folder.url, self.engine, self.workers, self.begun, shares)
        for trial in new:
            found = measure.measure(self.folder, self.plan, [trial.name], limit=first(self.folder.spec, share))
            trial.results = {one.metric: one for one in found}

    def values(self, trial: Trial) -> list[float]:
        """The objectives of a trial."""
        return [trial.results[name].value for name in self.spec.options.objectives]

    def store(self) -> dict[str, Any]:
        """Write sweep.json: trials, the front over all, the best of each recipe."""
        done = [trial for trial in self.trials if not trial.given_up]
        on = front(np.array([self.values(trial) for trial in done]).reshape(len(done), -1), self.higher)
        found = {"objectives": list(self.spec.options.objectives), "select": self.spec.options.select,
                 "method": self.spec.options.method, "trials": [trial.summary for trial in self.trials],
                 "front": [trial.name for trial, there in zip(done, on) if there],
                 "best": {recipe: best(done, recipe, self.spec.options.select).name for recipe in self.spec.recipes
                          if any(trial.recipe == recipe for trial in done)}}
        self.folder.storage.write(STORED, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
        return found

    @property
    def higher(self) -> list[bool]:
        """Of each objective, whether more is better."""
        return [bool(METRICS[name].higher) for name in self.spec.options.objectives]


def sweep(spec: SweepSpec, out: str | None = None, engine: str | None = None, workers: int | None = None,
          begun: Total | None = None, told: Callable[[Trial], None] = lambda trial: None) -> dict[str, Any]:
    """Make and measure every trial; what sweep.json holds. `told` hears of each trial that is measured.

    Raises `BadValue` for what is missing before any image.
    """
    options, url = spec.options, out or spec.out
    if url is None:
        raise BadValue("say where the sweep goes: `out: runs/sweep` in the spec, or --out")
    known = reference.read(options.reference) if options.reference else None
    at = Sweep(spec, RunFolder(url), measure.plan(options.measured, known), begun, engine, workers)
    if options.method == "grid":
        _all(at, told)
    else:
        for recipe, data in spec.recipes.items():
            _search(at, recipe, study(options.method, recipe, opens(data), options.seed, at.higher), told)
    return at.store()


def best(trials: Sequence[Trial], recipe: str, select: str) -> Trial:
    """The best trial of a recipe by one metric; the first of equals."""
    own = [trial for trial in trials if trial.recipe == recipe]
    sign = -1 if METRICS[select].higher else 1
    return min(own, key=lambda trial: sign * trial.results[select].value)


def _all(at: Sweep, told: Callable[[Trial], None]) -> None:
    """Every point of the grids, in one run."""
    at.trials = [Trial(name, recipe, point, at.spec.trial(recipe, point))
                 for recipe, points in at.spec.grids().items() for name, point in points.items()]
    at.make(at.trials)
    for trial in at.trials:
        told(trial)


def _search(at: Sweep, recipe: str, proposer: Study, told: Callable[[Trial], None]) -> None:
    """Trials of one recipe in turn, each proposed in the light of those before."""
    early: list[list[float]] = []
    prune = at.spec.options.method == "optuna" and at.spec.options.prune
    for number in range((at.spec.options.trials or 1) if opens(at.spec.recipes[recipe]) else 1):
        point = proposer.ask()
        trial = Trial(f"{recipe}.{number}", recipe, point, at.spec.trial(recipe, point))
        if prune:
            at.make([trial], EARLY)
            trial.given_up = beaten(at.values(trial), early, at.higher)
            early.append(at.values(trial))
        if not trial.given_up:
            at.make([trial])
        proposer.tell(None if trial.given_up else at.values(trial))
        at.trials.append(trial)
        told(trial)


def beaten(values: Sequence[float], earlier: Sequence[Sequence[float]], higher: Sequence[bool], least: int = 3) -> bool:
    """True where at least half of the earlier trials (and `least` of them are there) were better in every objective."""
    signs = np.where(np.asarray(higher), 1.0, -1.0)
    better = [bool((np.asarray(one) * signs > np.asarray(values) * signs).all()) for one in earlier]
    return len(better) >= least and sum(better) * 2 >= len(better)
