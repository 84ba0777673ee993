"""Images whose verdict one recipe changed from another's: which they are, and a picture of the first of them."""

import io
from typing import Any

import numpy as np
from PIL import Image

from ....errors import BadValue
from ...draw.judged import Cell, Heading, judged_sheet
from ..metrics.extractors import EXTRACTORS
from ..metrics.features import Images, features
from .numbers import Changed

SHOWN = 10


def find(folder: Any, recipe: str, base: str) -> Changed:
    """The images that `recipe` has right and `base` wrong (mended), and the other way round (broken)."""
    mine, theirs = (_right(folder, name) for name in (recipe, base))
    both = sorted(mine.keys() & theirs.keys())
    mended = [number for number in both if mine[number] and not theirs[number]]
    broken = [number for number in both if theirs[number] and not mine[number]]
    return Changed(recipe, base, len(mended), len(broken), (tuple(mended[:SHOWN]), tuple(broken[:SHOWN])))


def _right(folder: Any, recipe: str) -> dict[int, bool]:
    images = Images.of(folder, recipe)
    found = features(images, EXTRACTORS["judge"]("cpu"))
    return dict(zip(images.columns["number"], (found["right"] == 1).tolist()))


def draw(folder: Any, changed: Changed) -> bytes:
    """The picture: a row for each number, the base and the recipe; the mended ones on the left, the broken on the right."""
    if not any(changed.shown):
        raise BadValue(f"{changed.recipe} changed the verdict of no image of {changed.base}")
    sink = io.BytesIO()
    words = ("mended", "broken")
    _beside([_sheet(folder, changed, numbers, word) for numbers, word in zip(changed.shown, words) if numbers]).save(
        sink, format="PNG")
    return sink.getvalue()


def _sheet(folder: Any, changed: Changed, numbers: tuple[int, ...], word: str) -> Any:
    names = (changed.base, changed.recipe)
    prompts = [folder.spec.prompts[number % len(folder.spec.prompts)].text for number in numbers]
    rows = [[_cell(folder.image(name, number), prompt) for name in names] for number, prompt in zip(numbers, prompts)]
    labels = [f"{prompt} (image {number})" for number, prompt in zip(numbers, prompts)]
    return judged_sheet(rows, [Heading(name) for name in names], labels, word)


def _cell(image: Any, prompt: str) -> Cell:
    from ....worlds.shapes.faults import faults
    from ....worlds.shapes.verdict import judge

    return Cell(image, faults(prompt, judge(np.asarray(image)[None], [prompt])[0]))


def _beside(sheets: list[Any]) -> Any:
    page = Image.new("RGB", (sum(one.width for one in sheets), max(one.height for one in sheets)), "white")
    for at, one in enumerate(sheets):
        page.paste(one, (sum(before.width for before in sheets[:at]), 0))
    return page
