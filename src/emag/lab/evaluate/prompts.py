"""Lists of prompts: from files (see `prompt_file`), from lists and from class names."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BadValue
from ...methods.common.values import checked
from ...near import choices
from ...records.seeds import MOST
from .prompt_file import Row, rows_of

TEXTS, CATEGORIES = ("prompt", "caption", "text"), ("category", "tag")
WORLDS = ("shapes",)


@dataclass(frozen=True)
class Prompt:
    """What one image shows. category: of the prompt file. label: the class it shows, where that is known."""

    text: str
    category: str | None = None
    label: str | None = None


def of_list(texts: Sequence[Any]) -> tuple[Prompt, ...]:
    """Prompts from texts."""
    return tuple(Prompt(checked("a prompt", text, str)) for text in texts)


def of_classes(names: Sequence[str]) -> tuple[Prompt, ...]:
    """Prompts that are class names or numbers; a model says how it wants them asked for."""
    return tuple(Prompt(name, None, name) for name in names)


def of_world(world: Any = None, count: Any = None, seed: int = 8) -> tuple[Prompt, ...]:
    """`count` prompts of a world's training distribution, the kind of each as its category; `seed` decides them.

    Raises `BadValue` for a world that there is not.
    """
    from ...worlds.shapes import draw, say

    if world not in WORLDS:
        raise BadValue(f"spec prompts: there is no world {world!r}; {choices(str(world), WORLDS)}")
    number = checked("prompts count", count, int)
    if not 1 <= number <= MOST:
        raise BadValue(f"prompts count must be 1 to {MOST}, got {number}")
    rng = np.random.default_rng([seed, WORLDS.index(world)])
    wanted = [draw.request(rng) for _ in range(number)]
    return tuple(Prompt(say(one), draw.plan_of(one)) for one in wanted)


def read_prompts(file: Any = None, column: Any = None, category: Any = None, limit: Any = None,
                 beside: Path = Path()) -> tuple[Prompt, ...]:
    """Prompts from a file (path, URL, or - for text on standard input) by column; the first `limit` of them.

    Raises `BadValue` that names the line.
    column: None is prompt, caption or text, any case; category: None is category or tag, where there is one.
    """
    name = str(checked("prompts file", file, str))
    limit = None if limit is None else checked("prompts limit", limit, int)
    rows = rows_of(name, _bytes(name, beside))
    if not rows:
        raise BadValue(f"the prompt file {name} holds no prompt")
    if limit is not None and not 1 <= limit <= len(rows):
        raise BadValue(f"prompts limit must be 1 to {len(rows)}, the prompts in {name}, got {limit}")
    head = rows[0].cells
    text, kind = _column(name, head, column, TEXTS, True), _column(name, head, category, CATEGORIES, False)
    return tuple(Prompt(_text(name, row, str(text)), None if kind is None else str(row.cells.get(kind) or "") or None)
                 for row in rows[:limit])


def _bytes(name: str, beside: Path) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read()
        if "://" in name:
            import fsspec

            with fsspec.open(name, "rb") as file:
                return file.read()
        place = Path(name).expanduser()
        return (place if place.is_file() else beside / place).read_bytes()
    except (OSError, ValueError, ImportError) as error:
        raise BadValue(f"cannot read the prompts in {name}: {getattr(error, 'strerror', None) or error}") from None


def _column(name: str, row: Mapping[str, Any], wanted: Any, usual: tuple[str, ...], needed: bool) -> str | None:
    """The column asked for, or else the first of the usual ones."""
    lower = {str(key).lower(): key for key in row}
    if wanted is None:
        found = next((lower[key] for key in usual if key in lower), None)
    else:
        found = wanted if wanted in row else None
    if found is None and (needed or wanted is not None):
        raise BadValue(f"{name} has no column {wanted or usual[0]!r}; it has {', '.join(map(str, row))}")
    return found


def _text(name: str, row: Row, column: str) -> str:
    text = row.cells.get(column)
    if not isinstance(text, str):
        raise BadValue(f"{row.place} of {name} has {text!r} for a {column}, which is no text")
    if not text.strip():
        raise BadValue(f"{row.place} of {name}: the {column} is empty")
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise BadValue(f"{row.place} of {name}: the {column} has half of a sign (\\ud800 to \\udfff)")
    return text
