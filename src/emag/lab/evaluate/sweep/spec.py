"""What a sweep does, as data: a run spec with open values in its recipes, and a `sweep` section."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....errors import BadValue
from ....methods.common.values import checked, hints_of
from ....near import choices
from ..metrics.table import METRICS
from ..recipes import read_recipe
from ..spec import RunSpec, parse, yaml_of
from ..unknown import refuse_unknown
from .space import Point, filled, grid, names, opens

METHODS = ("grid", "random", "optuna")


@dataclass(frozen=True)
class Options:
    """The `sweep` section. trials: of each recipe; grids must have as many points (recipes without open values have 1).

    objectives: metrics that make the front. select: the one by which a recipe's best trial is chosen. reference: for
    metrics that need one. seed: of random and optuna. prune: with optuna, give up a trial after a quarter of its images
    where half of the earlier ones were better in every objective.
    """

    method: str = "grid"
    trials: int | None = None
    objectives: tuple[str, ...] = ("fd", "accuracy")
    select: str = "fd"
    reference: str | None = None
    seed: int = 0
    prune: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise BadValue(f"sweep method must be one of {', '.join(METHODS)}, got {self.method!r}")
        known = [name for name, metric in METRICS.items() if metric.higher is not None]
        unknown = [name for name in (*self.objectives, self.select) if name not in known]
        if unknown or not self.objectives:
            raise BadValue(f"sweep objectives and select are metrics of which more or less is better, not "
                           f"{', '.join(dict.fromkeys(unknown)) or 'none'}; {choices(''.join(unknown[:1]), known)}")
        if self.method != "grid" and not (self.trials and self.trials > 0):
            raise BadValue(f"sweep method {self.method} needs trials, the number of trials of each recipe")

    @property
    def measured(self) -> tuple[str, ...]:
        """All metrics it needs."""
        return tuple(dict.fromkeys((*self.objectives, self.select)))


@dataclass(frozen=True)
class SweepSpec:
    """base: the run spec's data without recipes. recipes: their data, values open."""

    options: Options
    base: dict[str, Any]
    recipes: dict[str, Any] = field(hash=False)
    beside: Path = Path()

    @property
    def out(self) -> str | None:
        """Where the sweep goes."""
        return self.base.get("out")

    def run(self, trials: Mapping[str, Any]) -> RunSpec:
        """The run of these trials, by name."""
        return parse({**self.base, "recipes": dict(trials)}, beside=self.beside)

    def trial(self, recipe: str, point: Point) -> Any:
        """The data of one trial."""
        return filled(self.recipes[recipe], point)

    def grids(self) -> dict[str, dict[str, Point]]:
        """Trials of every recipe by name, for method grid. Raises `BadValue` where their numbers differ."""
        found = {recipe: dict(names(grid(data), recipe)) for recipe, data in self.recipes.items()}
        sizes = {recipe: len(points) for recipe, points in found.items() if opens(self.recipes[recipe])}
        wanted = self.options.trials or max(sizes.values(), default=1)
        odd = [f"{recipe} ({size})" for recipe, size in sizes.items() if size != wanted]
        if odd:
            raise BadValue(f"an equal budget means {wanted} trials for each recipe with open values; "
                           f"{', '.join(odd)} differ(s)")
        return found


def read_sweep(path: str | Path, images: int | None = None, device: str | None = None) -> SweepSpec:
    """The sweep in a YAML file; images, device: in the place of the file's. Raises `BadValue`."""
    return parse_sweep(yaml_of(path, images, device), Path(path).parent)


def parse_sweep(data: Any, beside: Path = Path()) -> SweepSpec:
    """A sweep from data, its recipes tried with the first of their values. Raises `BadValue`."""
    if not isinstance(data, Mapping) or not isinstance(data.get("sweep"), Mapping) or not data.get("recipes"):
        raise BadValue("a sweep is a run spec with recipes, and a section such as sweep: {method: grid, select: fd}")
    options = data["sweep"]
    hints = hints_of(Options)
    refuse_unknown("sweep", options, tuple(hints))
    made = Options(**{key: checked(f"sweep {key}", value, hints[key]) for key, value in options.items()})
    base = {key: value for key, value in data.items() if key not in ("sweep", "recipes")}
    spec = SweepSpec(made, base, dict(data["recipes"]), beside)
    for name, recipe in spec.recipes.items():
        first = {place.path: place.grid[0] if place.grid else place.low for place in opens(recipe)}
        read_recipe(name, filled(recipe, first))
    if made.method == "grid":
        spec.grids()
    return spec
