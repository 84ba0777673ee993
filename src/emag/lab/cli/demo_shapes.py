"""The sheet of the model of the world of shapes: what is right and wrong under each guidance, judged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .compare import drawn

PROMPTS = ("a large red circle on white", "two purple crosses on black", "three yellow rings on black",
           "a blue square and a red triangle", "a red circle left of a blue ring on white",
           "a cyan ring above a purple square", "a yellow circle inside a blue square on black",
           "a green circle larger than a red cross")

COLUMNS = {"no guidance: none": "", "CFG: host": "", "EMAG: emag": "on top of CFG", "EMAG map: emag,variant=map": "",
           "EMAG + APG: emag apg=3": "", "ADG: adg=8": "others", "PAG: pag": "",
           "weak branch: emag=0": "pushed away from"}
"""Guidances, and the name of the group that begins there."""


def draw_sheet(path: Path, seed: int, steps: int, cell: int) -> list[Any]:
    """Draw the prompts under every guidance, write the judged sheet to `path`, and give back the outcomes."""
    from ..draw.columns import Column
    from ..draw.sampling import DrawSettings, jobs
    from . import common as shared

    pipe, work = shared.open_pipeline("shapes"), jobs(PROMPTS, [], [seed])
    outcomes = drawn(pipe, [Column.parse(text) for text in COLUMNS], work, DrawSettings(steps), len(work))
    _write(outcomes, path, f"scale {outcomes[0].plain.scale:g}, {steps} steps", cell)
    return outcomes


def _write(outcomes: Sequence[Any], path: Path, settings: str, cell: int) -> None:
    from ...records.png import write
    from ..draw.judged import Heading, judged_sheet

    base = outcomes[1].evaluations
    headings = [Heading(one.column.label, f"{one.evaluations / base:.2f} x cost", group)
                for one, group in zip(outcomes, COLUMNS.values())]
    title = f"The same prompts and noise in every column (model shapes, {settings})"
    page = judged_sheet(list(zip(*map(_cells, outcomes))), headings, PROMPTS, title, cell)
    write(page, path, {**outcomes[0].records[0], "row": 0, "unrecorded": ["the other images of this sheet"],
                       "columns": [one.records[0]["rules"] for one in outcomes]})


def _cells(outcome: Any) -> list[Any]:
    """The images of a column with their faults; not judged where scipy is not installed."""
    from importlib.util import find_spec

    import numpy as np

    from ..draw.judged import Cell

    if find_spec("scipy") is None:
        return [Cell(image) for image in outcome.images]
    from ...worlds.shapes.faults import faults
    from ...worlds.shapes.verdict import judge

    verdicts = judge(np.stack([np.asarray(image) for image in outcome.images]), PROMPTS)
    return [Cell(image, faults(prompt, one)) for image, prompt, one in zip(outcome.images, PROMPTS, verdicts)]
