"""What the results page is made of, as data: everything it says follows from one JSON file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import BadValue
from ...files import parsed
from ..metrics.bootstrap import Estimate

FORMAT = 1
OVER_REFERENCE = ("recall", "coverage")
"""Older runs have intervals of these over the reference images: their n is not that of the images made."""


@dataclass(frozen=True)
class Row:
    """One recipe. setting: its short form. images: finished. wanted: asked for. emag: whether EMAG is among its rules.

    seconds: per image, median over batches. evaluations: of blocks, per image. values: by metric. minus: differences to
    other recipes, by their names, then by metric. best: whether a sweep chose the setting; None without a sweep.
    tried: the settings of the sweep and their values of the metric that chose.
    """

    name: str
    setting: str
    emag: bool
    images: int
    wanted: int
    seconds: Estimate | None = None
    evaluations: float | None = None
    values: dict[str, Estimate] = field(default_factory=dict)
    minus: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    best: bool | None = None
    tried: tuple[tuple[str, float], ...] = ()

    @property
    def measured(self) -> int:
        """How many images its values are of; 0 where it has none."""
        return max((one.n for name, one in self.values.items() if not name.endswith(OVER_REFERENCE)), default=0)


@dataclass(frozen=True)
class Metric:
    """What measured it, and whether more is better."""

    version: str
    higher: bool | None


@dataclass(frozen=True)
class Results:
    """All of the page. against: the recipe that others are compared with. run, machine, sweep: facts by name.

    again: the commands that make everything again.
    """

    against: str
    run: dict[str, Any]
    machine: dict[str, Any]
    metrics: dict[str, Metric]
    rows: tuple[Row, ...]
    sweep: dict[str, Any] | None = None
    again: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.against not in (row.name for row in self.rows) or not self.base.values:
            known = ", ".join(row.name for row in self.rows if row.values) or "none"
            raise BadValue(f"recipe {self.against!r}, which the others are compared with, is not measured; measured: "
                           f"{known}. Give emag metrics RUN --against {self.against}, or name another with --against")

    @property
    def base(self) -> Row:
        """The recipe that others are compared with."""
        return next(row for row in self.rows if row.name == self.against)

    @property
    def images(self) -> int:
        """Images per recipe in every comparison."""
        return self.base.measured

    @property
    def compared(self) -> list[Row]:
        """Rows measured over as many images as the base, in order."""
        return [row for row in self.rows if row.measured == self.images]

    @property
    def left_out(self) -> list[Row]:
        """Rows with fewer images, or more: they are compared with nothing."""
        return [row for row in self.rows if row.measured != self.images]


def over_reference(results: Results) -> bool:
    """Whether there are intervals over reference images."""
    return any(one.n != results.images for row in results.compared for name, one in row.values.items()
               if name.endswith(OVER_REFERENCE))


def to_json(results: Results) -> str:
    """The results as JSON, a row a line."""
    data = {"format": FORMAT, "against": results.against, "run": results.run, "machine": results.machine,
            "metrics": {name: [one.version, one.higher] for name, one in results.metrics.items()},
            "sweep": results.sweep, "again": results.again, "rows": [_row_data(row) for row in results.rows]}
    lines = (f" {json.dumps(key)}: {_lines(value)}" for key, value in data.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(path: str | Path) -> Results:
    """Results from a file of `to_json`. Raises `BadValue`."""
    try:
        return from_data(parsed(Path(path).read_bytes()))
    except OSError as error:
        raise BadValue(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadValue(f"{path} holds no results of format {FORMAT}: {type(error).__name__}: {str(error)[:200]}") from None


def from_data(data: Any) -> Results:
    """Results from what `to_json` wrote."""
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']}")
    metrics = {name: Metric(*one) for name, one in data["metrics"].items()}
    return Results(data["against"], data["run"], data["machine"], metrics, tuple(_row(one) for one in data["rows"]),
                   data["sweep"], tuple(data["again"]))


def rounded(one: Estimate) -> Estimate:
    """The estimate as it is stored: six significant digits."""
    value, low, high = (float(f"{x:.6g}") for x in (one.value, one.low, one.high))
    return Estimate(value, low, high, one.n)


def _lines(value: Any) -> str:
    """JSON, the items of a list on a line each."""
    items = value if isinstance(value, (list, tuple)) and value else None
    texts = [json.dumps(item, ensure_ascii=False) for item in items or [value]]
    return texts[0] if items is None else "[\n  " + ",\n  ".join(texts) + "\n ]"


def _row_data(row: Row) -> dict[str, Any]:
    return {**vars(row), "seconds": _list(row.seconds), "values": _lists(row.values),
            "minus": {base: _lists(found) for base, found in row.minus.items()}}


def _list(one: Estimate | None) -> list[float] | None:
    return None if one is None else [one.value, one.low, one.high, one.n]


def _lists(found: Mapping[str, Estimate]) -> dict[str, list[float] | None]:
    return {name: _list(one) for name, one in found.items()}


def _row(data: Mapping[str, Any]) -> Row:
    own = {**data, "values": _estimates(data["values"]), "tried": tuple((name, value) for name, value in data["tried"]),
           "minus": {base: _estimates(found) for base, found in data["minus"].items()}}
    return Row(**{**own, "seconds": data["seconds"] and Estimate(*data["seconds"])})


def _estimates(data: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate(*one) for name, one in data.items()}
