"""Recipes with open values: `{grid: [...]}` anywhere in their data, or a range `{low: 1, high: 3}` (and `log: true`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ....errors import BadValue

Place = tuple[str | int, ...]
Point = dict[Place, Any]


@dataclass(frozen=True)
class Open:
    """One open value of a recipe: one of a grid, or a number from a range, drawn evenly or on a log scale."""

    path: Place
    grid: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @property
    def name(self) -> str:
        """Its place in the recipe, such as rules.0.emag.scale."""
        return ".".join(map(str, self.path))


def opens(data: Any, path: Place = ()) -> list[Open]:
    """The open values of a recipe's data, in order. Raises `BadValue` for one that is malformed."""
    if isinstance(data, Mapping):
        if "grid" in data or _is_range(data):
            return [_open(path, data)]
        return [found for key, value in data.items() for found in opens(value, (*path, key))]
    if isinstance(data, list):
        return [found for at, value in enumerate(data) for found in opens(value, (*path, at))]
    return []


def filled(data: Any, point: Point, path: Place = ()) -> Any:
    """A recipe's data with the values of a point in the open places."""
    if path in point:
        return point[path]
    if isinstance(data, Mapping):
        return {key: filled(value, point, (*path, key)) for key, value in data.items()}
    if isinstance(data, list):
        return [filled(value, point, (*path, at)) for at, value in enumerate(data)]
    return data


def grid(data: Any) -> list[Point]:
    """Every combination of the grids, the first open value changing slowest. Raises `BadValue` for a range."""
    places = opens(data)
    ranges = [place.name for place in places if not place.grid]
    if ranges:
        raise BadValue(f"{', '.join(ranges)} is a range, and a grid has no end: give {{grid: [...]}}, or method random")
    return [dict(zip([place.path for place in places], values)) for values in product(*(p.grid for p in places))]


def label(point: Point) -> str:
    """A point in few words: "scale=1.5 guidance_scale=2"; the last name of each path."""
    return " ".join(f"{next((str(part) for part in reversed(path) if isinstance(part, str)), '')}={value}"
                    for path, value in point.items())


def _is_range(data: Mapping[str, Any]) -> bool:
    """True for {low, high}, but where those are parameters of a schedule or, open ones themselves, of a method."""
    ends = [data.get("low"), data.get("high")]
    return {"low", "high"} <= set(data) and "schedule" not in data and not any(isinstance(end, Mapping) for end in ends)


def _open(path: Place, data: Mapping[str, Any]) -> Open:
    where = ".".join(map(str, path))
    if "grid" in data:
        if set(data) != {"grid"} or not isinstance(data["grid"], Sequence) or not data["grid"]:
            raise BadValue(f"{where}: a grid is {{grid: [1.25, 1.5]}}, got {dict(data)!r}")
        return Open(path, tuple(data["grid"]))
    numbers = [data[key] for key in ("low", "high")]
    log = data.get("log", False)
    if set(data) - {"low", "high", "log"} or not all(isinstance(n, (int, float)) for n in numbers) \
            or not numbers[0] < numbers[1] or (log and numbers[0] <= 0):
        raise BadValue(f"{where}: a range is {{low: 1, high: 3}}, low below high (above 0 with log: true), "
                       f"got {dict(data)!r}")
    return Open(path, (), float(numbers[0]), float(numbers[1]), bool(log))


def names(points: Sequence[Point], recipe: str) -> Iterator[tuple[str, Point]]:
    """Trials of a recipe by name: recipe.0, recipe.1, ..."""
    return ((f"{recipe}.{at}", point) for at, point in enumerate(points))
