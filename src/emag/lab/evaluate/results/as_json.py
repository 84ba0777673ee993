"""The results as one JSON file: everything the page says follows from it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ....errors import BadValue
from ....files import parsed
from ..metrics.bootstrap import Estimate
from .numbers import Changed, Metric, Question, Results, Row, World

FORMAT = 1


def to_json(results: Results) -> str:
    """The results as JSON, a row a line."""
    data = {"format": FORMAT, "against": results.against, "run": results.run, "machine": results.machine,
            "metrics": {name: [one.version, one.higher] for name, one in results.metrics.items()},
            "sweep": results.sweep, "again": results.again, "questions": [asdict(one) for one in results.questions],
            "changed": results.changed and asdict(results.changed), "rows": [_row_data(row) for row in results.rows]}
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
                   data["sweep"], tuple(data["again"]), tuple(_question(one) for one in data.get("questions", ())),
                   _changed(data.get("changed")))


def _question(data: Mapping[str, Any]) -> Question:
    return Question(data["question"], tuple((name, base) for name, base in data["pairs"]), tuple(data["metrics"]))


def _changed(data: Mapping[str, Any] | None) -> Changed | None:
    return None if data is None else Changed(**{**data, "shown": tuple(tuple(numbers) for numbers in data["shown"])})


def rounded(one: Estimate) -> Estimate:
    """The estimate as it is stored: six significant digits."""
    value, low, high = (float(f"{x:.6g}") for x in (one.value, one.low, one.high))
    return Estimate(value, low, high, one.n, None if one.p is None else float(f"{one.p:.3g}"))


def _lines(value: Any) -> str:
    """JSON, the items of a list on a line each."""
    items = value if isinstance(value, (list, tuple)) and value else None
    texts = [json.dumps(item, ensure_ascii=False) for item in items or [value]]
    return texts[0] if items is None else "[\n  " + ",\n  ".join(texts) + "\n ]"


def _row_data(row: Row) -> dict[str, Any]:
    return {**vars(row), "seconds": _list(row.seconds), "values": _lists(row.values),
            "minus": {base: _lists(found) for base, found in row.minus.items()}, "world": row.world and asdict(row.world)}


def _list(one: Estimate | None) -> list[float] | None:
    return None if one is None else [one.value, one.low, one.high, one.n] + ([] if one.p is None else [one.p])


def _lists(found: Mapping[str, Estimate]) -> dict[str, list[float] | None]:
    return {name: _list(one) for name, one in found.items()}


def _row(data: Mapping[str, Any]) -> Row:
    own = {**data, "values": _estimates(data["values"]), "tried": tuple((name, value) for name, value in data["tried"]),
           "minus": {base: _estimates(found) for base, found in data["minus"].items()}}
    world = data.get("world")
    own["world"] = world and World(**{**world, "spread": tuple(world["spread"]), "differ": tuple(world["differ"])})
    return Row(**{**own, "seconds": data["seconds"] and Estimate(*data["seconds"])})


def _estimates(data: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate(*one) for name, one in data.items()}
