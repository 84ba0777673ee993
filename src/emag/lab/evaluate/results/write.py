"""Stores the page, its numbers and its picture."""

from collections.abc import Sequence
from pathlib import Path

from fsspec.core import url_to_fs

from ....errors import BadValue
from ..storage import Storage
from .collect import collect
from .numbers import Results, read, to_json
from .page import markdown
from .picture import pairs, png


def results_of(sources: Sequence[str], against: str | None = None, again: Sequence[str] = ()) -> Results:
    """Results from run folders, or from one JSON file of an earlier page. Raises `BadValue`."""
    if not any(source.endswith(".json") for source in sources):
        return collect(sources, against or "cfg", again)
    if len(sources) > 1 or again or against:
        raise BadValue("a JSON file of results holds the whole page: give it alone")
    return read(sources[0])


def write(results: Results, page: Path) -> list[Path]:
    """Write page, numbers and picture beside each other, named as the page; returns their paths. Raises `BadValue`."""
    storage = Storage(*url_to_fs(str(page.parent)))
    made = {page.with_suffix(".json"): to_json(results).encode(), page: markdown(results, page.stem).encode()}
    made |= {page.with_suffix(".png"): png(results)} if pairs(results) else {}
    for path, data in made.items():
        storage.write(path.name, data)
    return list(made)
