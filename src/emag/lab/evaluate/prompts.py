"""Lists of prompts: from text, tsv, csv, jsonl and parquet files, from lists and from class names."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from ...errors import BadValue
from ...records.values import checked

TEXTS, CATEGORIES = ("prompt", "caption", "text"), ("category", "tag")


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


def read_prompts(file: Any = None, column: Any = None, category: Any = None, limit: Any = None,
                 beside: Path = Path()) -> tuple[Prompt, ...]:
    """Prompts from a file (path or URL) by column; the first `limit` of them. Raises `BadValue`.

    column: None is prompt, caption or text, any case; category: None is category or tag, where there is one.
    """
    name = str(checked("prompts file", file, str))
    limit = None if limit is None else checked("prompts limit", limit, int)
    rows = _rows(name, _bytes(name, beside))
    if not rows:
        raise BadValue(f"the prompt file {name} holds no prompt")
    if limit is not None and not 1 <= limit <= len(rows):
        raise BadValue(f"prompts limit must be 1 to {len(rows)}, the prompts in {name}, got {limit}")
    text, kind = _column(name, rows[0], column, TEXTS, True), _column(name, rows[0], category, CATEGORIES, False)
    return tuple(Prompt(_text(name, at, row, text), None if kind is None else str(row.get(kind) or "") or None)
                 for at, row in enumerate(rows[:limit], start=1))


def _bytes(name: str, beside: Path) -> bytes:
    place = name if "://" in name or Path(name).is_file() else str(beside / name)
    try:
        with fsspec.open(place, "rb") as file:
            return file.read()
    except (OSError, ValueError, ImportError) as error:
        raise BadValue(f"cannot read the prompts in {name}: {getattr(error, 'strerror', None) or error}") from None


def _rows(name: str, data: bytes) -> list[Mapping[str, Any]]:
    kind = name.rpartition(".")[2].lower()
    try:
        if kind == "parquet":
            import pyarrow.parquet as pq

            return pq.read_table(io.BytesIO(data)).to_pylist()
        lines = data.decode("utf-8-sig")
        if kind in ("tsv", "csv"):
            return list(csv.DictReader(io.StringIO(lines, newline=""), delimiter="\t" if kind == "tsv" else ","))
        texts = [line.strip() for line in lines.splitlines() if line.strip()]
        rows = [json.loads(line) for line in texts] if kind == "jsonl" else [{"prompt": line} for line in texts]
    except (ValueError, csv.Error) as error:
        raise BadValue(f"cannot read the prompts in {name}: {error}") from None
    odd = next((row for row in rows if not isinstance(row, dict)), None)
    if odd is not None:
        raise BadValue(f"every line of {name} must be a JSON object, got {odd!r}")
    return rows


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


def _text(name: str, at: int, row: Mapping[str, Any], column: str | None) -> str:
    text = row.get(column or "")
    if not isinstance(text, str):
        raise BadValue(f"prompt {at} of {name} is {text!r}, not a text")
    return text
