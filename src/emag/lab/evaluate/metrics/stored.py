"""metrics.json of a run folder: what was measured, metric by metric."""

import json
from collections.abc import Sequence
from math import isfinite
from typing import Any

from ....errors import BadValue
from ....files import parsed
from .measure import Result, check_table

STORED, LOCK = "metrics.json", ".metrics.lock"
TEXTS, NUMBERS = ("recipe", "metric", "version"), ("value", "low", "high")


def read(run: Any) -> list[Result]:
    """What is stored in a `RunFolder`; nothing where nothing was measured. Raises `BadValue` where the file is damaged."""
    if not run.storage.exists(STORED):
        return []
    try:
        return [_checked(Result(**row)) for row in parsed(run.storage.read(STORED))]
    except (ValueError, TypeError):
        raise BadValue(f"{STORED} of {run.url} is damaged: remove it, and give emag metrics again") from None


def add(run: Any, results: Sequence[Result]) -> None:
    """Store results beside those that they do not replace, one process at a time.

    Raises `BadValue` where these are of another version.
    """
    new = {(one.recipe, one.metric, one.against) for one in results}
    with run.storage.lock(LOCK, wait=True):
        kept = [one for one in read(run) if (one.recipe, one.metric, one.against) not in new]
        data = [one.data for one in check_table([*kept, *results])]
        run.storage.write(STORED, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def _checked(one: Result) -> Result:
    texts = all(isinstance(getattr(one, name), str) for name in TEXTS) and isinstance(one.against, (str, type(None)))
    numbers = all(type(getattr(one, name)) in (int, float) and isfinite(getattr(one, name)) for name in NUMBERS)
    numbers = numbers and (one.p is None or (type(one.p) in (int, float) and 0 <= one.p <= 1))
    if not (texts and numbers and type(one.n) is int and isinstance(one.higher, (bool, type(None)))):
        raise TypeError(one.metric)
    return one
