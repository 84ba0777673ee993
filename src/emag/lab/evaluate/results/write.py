"""Stores the pages, their numbers and their pictures."""

import os
from collections.abc import Sequence
from pathlib import Path

from fsspec.core import url_to_fs

from ....errors import BadValue
from ..folder import RunFolder
from ..spec import yaml_of
from ..storage import Storage
from . import changed
from .as_json import read, to_json
from .collect import collect
from .numbers import Question, Results
from .page import markdown
from .picture import pairs, png
from .worth import check_once, gains_of
from .worth_page import markdown as worth_page
from .worth_picture import png as draw_worth


def results_of(sources: Sequence[str], against: str | None = None, again: Sequence[str] = (),
               questions: str | Path | None = None, changes: str | None = None) -> Results:
    """Results from run folders, or from one JSON file of an earlier page. questions: a YAML file, see `read_questions`.

    Raises `BadValue`.
    """
    if not any(source.endswith(".json") for source in sources):
        asked = read_questions(questions) if questions else ()
        return collect(sources, against or "cfg", again, asked, changes)
    if len(sources) > 1 or again or against or questions or changes:
        raise BadValue("a JSON file of results holds the whole page: give it alone")
    return read(sources[0])


def read_questions(path: str | Path) -> tuple[Question, ...]:
    """Questions from a YAML list of {question: ..., pairs: [[recipe, base], ...], metrics: [...]}. Raises `BadValue`."""
    data = yaml_of(path)
    try:
        return tuple(Question(str(one["question"]), tuple((str(name), str(base)) for name, base in one["pairs"]),
                              tuple(map(str, one["metrics"]))) for one in data)
    except (TypeError, KeyError, ValueError):
        raise BadValue(f"{path}: questions are a list of {{question: text, pairs: [[recipe, base]], metrics: [correct]}}"
                       ) from None


def write(results: Results, page: Path, sources: Sequence[str] = ()) -> list[Path]:
    """Write page, numbers and pictures beside each other, named as the page; returns their paths. Raises `BadValue`.

    sources: the run folders, from which images that changed are drawn; without them that picture stays as it is.
    """
    storage = Storage(*url_to_fs(str(page.parent)))
    made = {page.with_suffix(".json"): to_json(results).encode(), page: markdown(results, page.stem).encode()}
    made |= {page.with_suffix(".png"): png(results)} if pairs(results) else {}
    if results.changed and any(results.changed.shown) and not any(source.endswith(".json") for source in sources):
        held = [folder for folder in map(RunFolder, sources) if folder.exists]
        run = next((one for one in held if results.changed.recipe in one.recipes()), None)
        made |= {page.with_name(f"{page.stem}-changed.png"): changed.draw(run, results.changed)} if run else {}
    for path, data in made.items():
        storage.write(path.name, data)
    return list(made)


def write_worth(sources: Sequence[str | Path], page: Path) -> list[Path]:
    """Write the page of what is worth its evaluations, and a picture for each model, beside it. Raises `BadValue`.

    sources: JSON files of results pages; the pages are taken to lie beside them. A model may have several, each with
    recipes of its own and the base.
    """
    found = {f"{os.path.relpath(path, page.parent)[:-len('.json')]}.md": read(path) for path in map(Path, sources)}
    check_once(list(found.values()))
    storage = Storage(*url_to_fs(str(page.parent)))
    drawn = {at: page.with_name(f"{page.stem}-{Path(at).stem}.png") for at, one in found.items() if gains_of(one)}
    made = {drawn[at]: draw_worth(found[at]) for at in drawn}
    made[page] = worth_page(found, {at: path.name for at, path in drawn.items()}).encode()
    for path, data in made.items():
        storage.write(path.name, data)
    return [page, *drawn.values()]
