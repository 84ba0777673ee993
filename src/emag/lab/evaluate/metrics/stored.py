"""metrics.json of a run folder: what was measured, metric by metric."""

import json
from collections.abc import Sequence
from typing import Any

from ....errors import BadValue
from .measure import Result, check_table

STORED = "metrics.json"


def read(run: Any) -> list[Result]:
    """What is stored in a `RunFolder`; nothing where nothing was measured. Raises `BadValue` where the file is damaged."""
    if not run.storage.exists(STORED):
        return []
    try:
        return [_checked(Result(**row)) for row in json.loads(run.storage.read(STORED))]
    except (ValueError, TypeError):
        raise BadValue(f"{STORED} of {run.url} is damaged: remove it, and give emag metrics again") from None


def add(run: Any, results: Sequence[Result]) -> None:
    """Store results beside those that they do not replace. Raises `BadValue` where these are of another version."""
    new = {(one.recipe, one.metric, one.against) for one in results}
    kept = [one for one in read(run) if (one.recipe, one.metric, one.against) not in new]
    data = [one.data for one in check_table([*kept, *results])]
    run.storage.write(STORED, (json.dumps(data, indent=1) + "\n").encode())


def _checked(one: Result) -> Result:
    if not all(isinstance(x, (int, float)) for x in (one.value, one.low, one.high, one.n)):
        raise TypeError(one.metric)
    return one
