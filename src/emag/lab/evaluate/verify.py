"""Is a run whole? Every image there once, as it was written, as its spec wants it, and nothing else."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ...errors import BadValue
from ...files import is_draft, parsed
from .check import prompts_hash
from .folder import FILE, IMAGES, INDEX_FOLDER, MENDS, PROMPTS, RunFolder, image_name
from .pictures import OWN, clipped, read_rgb
from .tasks import task
from .work import KEY

SPECIFIED = ("recipe", "prompt", "category", "class", "seed", "model", "file")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a run.

    kind: missing, damaged, doubled, differs, extra, draft, or clipped (no number came out, or a scale is out of any range:
    making it again does not help). where: the file, or the recipe. remove: the files without which `emag run` makes the
    images again.
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
    try:
        prompts = prompts_hash(folder.prompts)
    except BadValue as error:  # without its prompts, nothing can be said of the images
        return [*found, Problem("damaged", PROMPTS, str(error), (PROMPTS,))]
    if prompts != folder.run.get("prompts_sha256", prompts):
        text = f"the prompts are not those that the run was begun with: {MENDS[PROMPTS]}"
        found.append(Problem("differs", PROMPTS, text, (PROMPTS,)))
    for name in folder.recipes():
        found += _recipe(folder, name)
    return found + _strangers(folder)


def repair(folder: RunFolder, problems: Sequence[Problem]) -> tuple[list[str], list[str]]:
    """Remove what is wrong, parts of the index first, so that `emag run` makes it again: files removed, and files left.

    Left is what is no regular file, or is reached through a link below the run folder.
    """
    names = dict.fromkeys(name for problem in problems for name in problem.remove)
    ordered = sorted(names, key=lambda name: not name.startswith(INDEX_FOLDER))
    with folder.storage.lock():
        removed = [name for name in ordered if folder.storage.remove(name)]
    return removed, [name for name in ordered if name not in removed and folder.storage.exists(name)]


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
    yield from _image(folder, part, row)


def _wanted(folder: RunFolder, recipe: str, number: int) -> dict[str, Any]:
    one = task(folder.spec, number)
    return {"recipe": recipe, "prompt": one.prompt.text, "category": one.prompt.category, "class": one.prompt.label,
            "seed": one.seed, "model": folder.spec.model.id, "file": image_name(recipe, number)}


def _image(folder: RunFolder, part: str, row: dict[str, Any]) -> Iterator[Problem]:
    """What is wrong with the file of a row."""
    name = row["file"]
    try:
        data = folder.storage.read(name)
    except BadValue:
        yield Problem("damaged", name, "the image is not there", (part,))
        return
    try:
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise BadValue("its bytes are not those that were written")
        pixels = np.asarray(read_rgb(data, "it"))
    except BadValue as error:
        yield Problem("damaged", name, str(error), (part, name))
        return
    if clipped(pixels[None])[0]:
        shown = "0 or 255" if pixels.any() else "black"
        yield Problem("clipped", name, f"all its pixels are {shown}: the network or a rule gave no finite numbers, or a "
                      "scale is out of any useful range")


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
    return [_extra(folder, name, "no image of the run") for name in files if name not in wanted and not _draft(name)]


def _strangers(folder: RunFolder) -> list[Problem]:
    """Files of recipes that the run does not have."""
    known = folder.recipes()
    names = [name for top in (IMAGES, INDEX_FOLDER) for name in folder.storage.below(top)]
    odd = [name for name in names if name.count("/") < 2 or name.split("/")[1] not in known]
    return [_extra(folder, name, "the run has no such recipe") for name in odd if not _draft(name)]


def _draft(name: str) -> bool:
    return is_draft(name.rpartition("/")[2])


def _extra(folder: RunFolder, name: str, text: str) -> Problem:
    if _ours(folder, name):
        return Problem("extra", name, text, (name,))
    return Problem("extra", name, f"{text}, and emag run did not make it: it stays; put it elsewhere")


def _ours(folder: RunFolder, name: str) -> bool:
    """Whether a file outside the run's list is of `emag run` after all: by its place, its name and what is in it."""
    if name.count("/") != 2 or not FILE.fullmatch(name.rpartition("/")[2]) or folder.storage.linked(name):
        return False
    try:
        data = folder.storage.read(name)
        if name.startswith(INDEX_FOLDER):
            return len(folder.part(name, data)) > 0
        with Image.open(io.BytesIO(data), formats=OWN) as image:
            return bool(parsed(str(image.info.get(KEY)))["run"] == folder.run["run"])
    except Exception:  # no image, no record, or another's: not ours
        return False
