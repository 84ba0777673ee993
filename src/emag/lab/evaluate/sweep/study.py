"""Who proposes the next trial of a recipe: random draws, or Optuna; both the same again for the same seed and answers."""

import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from ....errors import BadValue
from .space import Open, Point


class Study(Protocol):
    """Proposes points of one recipe, and is told what they measured."""

    def ask(self) -> Point:
        """The next point."""
        ...

    def tell(self, values: Sequence[float] | None) -> None:
        """The objectives of the latest point; None where it was given up."""
        ...


class Random:
    """Independent draws."""

    def __init__(self, recipe: str, places: Sequence[Open], seed: int):
        self.places, self.rng = places, np.random.default_rng([seed, zlib.crc32(recipe.encode())])

    def ask(self) -> Point:
        return {place.path: self._draw(place) for place in self.places}

    def tell(self, values: Sequence[float] | None) -> None:
        pass

    def _draw(self, place: Open) -> Any:
        if place.grid:
            return place.grid[int(self.rng.integers(len(place.grid)))]
        ends = np.log([place.low, place.high]) if place.log else np.array([place.low, place.high])
        drawn = float(self.rng.uniform(*ends))
        return round(float(np.exp(drawn)) if place.log else drawn, 6)


class Optuna:
    """Optuna: TPE for one objective, NSGA-II for several. The run folder is its memory: resumed, it asks the same again."""

    def __init__(self, recipe: str, places: Sequence[Open], seed: int, higher: Sequence[bool]):
        optuna = load()
        seed = (seed + zlib.crc32(recipe.encode())) % 2**31
        kinds = optuna.samplers
        sampler = kinds.TPESampler(seed=seed) if len(higher) == 1 else kinds.NSGAIISampler(seed=seed, population_size=8)
        self.places, self.pruned = places, optuna.trial.TrialState.PRUNED
        self.study = optuna.create_study(sampler=sampler, directions=["maximize" if up else "minimize" for up in higher])

    def ask(self) -> Point:
        self.trial = self.study.ask()
        return {place.path: self._suggest(place) for place in self.places}

    def tell(self, values: Sequence[float] | None) -> None:
        if values is None:
            self.study.tell(self.trial, state=self.pruned)
        else:
            self.study.tell(self.trial, list(values))

    def _suggest(self, place: Open) -> Any:
        if place.grid:
            return place.grid[self.trial.suggest_categorical(place.name, list(range(len(place.grid))))]
        return round(self.trial.suggest_float(place.name, place.low, place.high, log=place.log), 6)


def load() -> Any:
    """The optuna module, quiet. Raises `BadValue` where it is not installed."""
    if find_spec("optuna") is None:
        raise BadValue("sweep method optuna needs Optuna: pip install emag[sweep]")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def study(method: str, recipe: str, places: Sequence[Open], seed: int, higher: Sequence[bool]) -> Study:
    """The study of one recipe; `higher`: of each objective, whether more is better."""
    return Optuna(recipe, places, seed, higher) if method == "optuna" else Random(recipe, places, seed)
