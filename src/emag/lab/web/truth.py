"""What is right and wrong in a picture, on a model of a world whose truth is known; other models have no judge."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ...errors import BadValue
from ...models.shapes import ShapesPipeline
from ..draw.judged import Cell, Heading, judged_sheet
from ..draw.sheets import sheet
from .job import Sight
from .model import Model


def is_judged(model: Model) -> bool:
    """Whether the pictures of a model can be judged."""
    return isinstance(model.pipe, ShapesPipeline)


def faults_of(model: Model, prompt: str, images: Sequence[Image.Image]) -> list[tuple[str, ...]] | None:
    """What is wrong in each image, () where nothing is; None without a judge, and for a prompt that he cannot read."""
    if not is_judged(model):
        return None
    from ...worlds.shapes.faults import faults
    from ...worlds.shapes.verdict import judge

    try:
        verdicts = judge(np.stack([np.asarray(image) for image in images]), [prompt] * len(images))
    except BadValue:
        return None
    return [faults(prompt, one) for one in verdicts]


def verdicts(model: Model, sight: Sight) -> dict[str, tuple[str, ...]]:
    """The faults of each picture of a run by its name; nothing where they cannot be judged."""
    drawn = {"plain": sight.plain, "guided": sight.guided, **({"weak": sight.weak} if sight.weak else {})}
    found = faults_of(model, sight.ask.prompt, [one.images[0] for one in drawn.values()])
    return dict(zip(drawn, found)) if found is not None else {}


def judged_rows(model: Model, prompt: str, rows: Sequence[Sequence[Image.Image]], heads: Sequence[str],
                labels: Sequence[str], cell: int) -> Image.Image:
    """A grid of pictures of one prompt, each with its verdict below where there is a judge."""
    found = faults_of(model, prompt, [image for row in rows for image in row])
    if found is None:
        return sheet(rows, heads, labels, "", cell)
    rest = iter(found)
    return judged_sheet([[Cell(image, next(rest)) for image in row] for row in rows], [Heading(head) for head in heads],
                        labels, prompt, cell)
