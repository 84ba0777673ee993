"""Columns of a comparison: one guidance each, in short form, run over the same prompts and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from . import recipe
from .engine.stats import Stats
from .errors import BadValue
from .guidance import Rule
from .sampling import Job, Progress, Settings, arguments, batches, sample


@dataclass(frozen=True)
class Column:
    """One guidance under a label. `scale` overrides the pipeline's own guidance scale."""

    label: str
    rules: tuple[Rule, ...] = ()
    scale: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Column":
        """From "emag=1.5 apg=4", with "scale=2.5" for the pipeline's own scale, "none" for 1, and "label: ..." before."""
        label, given, rest = text.partition(":") if text.partition(":")[0].count("=") == 0 else ("", "", text)
        words = (rest if given else text).split()
        if not words:
            raise BadValue(f"the column {text!r} is empty; write e.g. 'emag=1.5', 'none', or 'label: scale=2 emag=1.5'")
        scale, rules = None, []
        for word in words:
            if word == "none":
                scale = 1.0
            elif word.startswith("scale="):
                scale = _number(word)
            elif word != "host":
                rules.append(recipe.parse(word))
        return cls(label.strip() if given else text, tuple(rules), scale)


@dataclass(frozen=True)
class Outcome:
    """What one column made: an image per job, a record and row for each, and the statistics of its calls."""

    column: Column
    images: tuple[Image.Image, ...]
    records: tuple[dict[str, Any], ...]
    stats: tuple[Stats, ...]


def run(pipe: Any, column: Column, work: Sequence[Job], settings: Settings, batch_size: int,
        progress: Progress | None = None) -> Outcome:
    """Make the images of one column."""
    if column.scale is not None:
        settings = replace(settings, scale=column.scale)
    images: list[Image.Image] = []
    records: list[dict[str, Any]] = []
    found: list[Stats] = []
    for group in batches(work, batch_size):
        made, guided = sample(pipe, arguments(pipe, group, settings), [job.seed for job in group], column.rules, progress)
        images += made
        records += [{**(guided.record or {}), "row": row} for row in range(len(made))]
        found += [guided.stats] if guided.stats else []
    return Outcome(column, tuple(images), tuple(records), tuple(found))


def _number(word: str) -> float:
    try:
        return float(word.partition("=")[2])
    except ValueError:
        raise BadValue(f"cannot read {word!r}; write scale=2.5") from None
