"""Is a run whole? Every image there once, as it was written, as its spec wants it, and nothing else."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ...errors import BadValue
from .check import prompts_hash
from .folder import IMAGES, INDEX_FOLDER, RunFolder, image_name
from .tasks import task

SPECIFIED = ("recipe", "prompt", "category", "class", "seed", "model", "file")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a run.

    kind: missing, damaged, doubled, differs, extra or draft. where: the file, or the recipe. remove: the files without
    which `emag run` makes the images again.
    """

    kind: str
    where: str
    text: str
    remove: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.text}"


def verify(folder: RunFolder) -> list[Problem]:
    """All that is wrong with a run; nothing for one that is whole. Raises `BadValue` where its run.json cannot be read."""
    found = [Problem("draft", name, "a write was interrupted", (name,)) for name in folder.drafts()]
    if prompts_hash(folder.spec.prompts) != folder.run["prompts_sha256"]:
        found.append(Problem("differs", "prompts.parquet", "the prompts are not those that the run was begun with"))
    for name in folder.recipes():
        found += _recipe(folder, name)
    return found + _strangers(folder)


def repair(folder: RunFolder, problems: Sequence[Problem]) -> int:
    """Remove what is wrong, parts of the index first, so that `emag run` makes it again; how many files were removed."""
    names = dict.fromkeys(name for problem in problems for name in problem.remove)
    ordered = sorted(names, key=lambda name: not name.startswith(INDEX_FOLDER))
    with folder.storage.lock():
        return sum(folder.storage.remove(name) for name in ordered)


def _recipe(folder: RunFolder, recipe: str) -> list[Problem]:
    """Problems of one recipe, part by part of its index."""
    found: list[Problem] = []
    seen: dict[int, str] = {}
    for part, data in folder.storage.read_all(folder.parts(recipe)):
        try:
            rows = folder.part(part, data).to_pylist()
        except BadValue as error:
            found.append(Problem("damaged", part, str(error), (part,)))
            continue
        found += [problem for row in rows for problem in _row(folder, recipe, part, row, seen)]
    return found + _missing(folder, recipe, seen) + _unlisted(folder, recipe)


def _row(folder: RunFolder, recipe: str, part: str, row: dict[str, Any], seen: dict[int, str]) -> Iterator[Problem]:
    number, place = row["number"], f"{part} row {row['number']}"
    if number is None or not 0 <= number < folder.spec.total:
        yield Problem("extra", place, f"the run has images 0 to {folder.spec.total - 1}", (part,))
        return
    if number in seen:
        yield Problem("doubled", place, f"the image is in {seen[number]} too", (part, seen[number]))
    seen.setdefault(number, part)
    wanted = _wanted(folder, recipe, number)
    odd = [key for key in SPECIFIED if row[key] != wanted[key]]
    if odd:
        yield Problem("differs", place, f"{', '.join(odd)} not as the spec wants", (part,))
        return
    wrong = _image(folder, row)
    if wrong:
        yield Problem("damaged", row["file"], wrong, (part, row["file"]) if folder.storage.exists(row["file"]) else (part,))


def _wanted(folder: RunFolder, recipe: str, number: int) -> dict[str, Any]:
    one = task(folder.spec, number)
    return {"recipe": recipe, "prompt": one.prompt.text, "category": one.prompt.category, "class": one.prompt.label,
            "seed": one.seed, "model": folder.spec.model.id, "file": image_name(recipe, number)}


def _image(folder: RunFolder, row: dict[str, Any]) -> str | None:
    """What is wrong with the file of a row; None for nothing."""
    try:
        data = folder.storage.read(row["file"])
    except BadValue:
        return "the image is not there"
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        return "its bytes are not those that were written"
    try:
        Image.open(io.BytesIO(data)).load()
    except (OSError, SyntaxError, ValueError) as error:
        return f"it cannot be read as an image: {error}"
    return None


def _missing(folder: RunFolder, recipe: str, seen: dict[int, str]) -> list[Problem]:
    missing = [number for number in range(folder.spec.total) if number not in seen]
    if not missing:
        return []
    text = f"{len(missing)} image(s) not finished, the first is {missing[0]}: emag run makes them"
    return [Problem("missing", recipe, text)]


def _unlisted(folder: RunFolder, recipe: str) -> list[Problem]:
    """Files in a recipe's folders that are neither listed nor unfinished work."""
    wanted = {*folder.parts(recipe), *(image_name(recipe, number) for number in range(folder.spec.total))}
    files = [f"{top}/{recipe}/{name}" for top in (IMAGES, INDEX_FOLDER) for name in folder.storage.names(f"{top}/{recipe}")]
    odd = [name for name in files if name not in wanted]
    return [Problem("extra", name, "no image of the run", (name,)) for name in odd if not folder.storage.is_draft(name)]


def _strangers(folder: RunFolder) -> list[Problem]:
    """Files of recipes that the run does not have."""
    known = folder.recipes()
    names = [f"{top}/{name}" for top in (IMAGES, INDEX_FOLDER) for name in folder.storage.names(top) if name not in known]
    return [Problem("extra", name, "the run has no such recipe", (name,))
            for name in names if not folder.storage.is_draft(name)]
