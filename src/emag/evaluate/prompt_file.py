"""Prompt files as rows, read strictly: what would change a prompt or lose one is an error that names the line.

    .txt      a prompt a line; empty lines are skipped
    .tsv      a header, then a row a line; quotes are part of the text
    .csv      a header, then rows; a cell with a comma or a quote at its beginning stands in quotes
    .jsonl    an object a line;  .json: a list of texts or of objects
    .parquet  a table

Text is UTF-8; a byte order mark is taken off. Lines end where editors end them: a raw U+2028 is part of a line.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BadValue
from ..files import parsed

LINE = re.compile("\r\n|\n|\r")
ONLY = "prompt"
"""The column of files that have prompts and nothing else."""


@dataclass(frozen=True)
class Row:
    """One row, and where it stands in the file, such as "line 3"."""

    place: str
    cells: Mapping[str, Any]


def rows_of(name: str, data: bytes) -> list[Row]:
    """The rows of a file, read by the ending of its name. Raises `BadValue` that names the line."""
    kind = name.rpartition("/")[2].rpartition(".")[2].lower() if "." in name.rpartition("/")[2] else "txt"
    if kind not in READERS:
        raise BadValue(f"{name} ends in .{kind}; prompts are read from .{', .'.join(READERS)}")
    try:
        return list(READERS[kind](data))
    except ValueError as error:
        raise BadValue(f"cannot read the prompts in {name}: {error}") from None


def _text(data: bytes) -> str:
    """The text. Raises `ValueError` that names the line of a byte that is no UTF-8, or that is 0."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it is UTF-16; save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data:
        raise ValueError(f"{_line(data[:data.index(0)])} has a zero byte: this is no text file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        at, byte = _line(data[:error.start]), data[error.start]
        raise ValueError(f"{at} is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from None


def _line(before: bytes) -> str:
    return f"line {len(LINE.split(before.decode('utf-8', 'replace')))}"


def _lines(data: bytes, blank: str | None = None) -> Iterator[tuple[str, str]]:
    """Lines that have more than `blank` signs (None: any white space), each with its place."""
    for at, line in enumerate(LINE.split(_text(data)), start=1):
        if line.strip(blank):
            yield f"line {at}", line


def _txt(data: bytes) -> Iterator[Row]:
    return (Row(place, {ONLY: line.strip()}) for place, line in _lines(data))


def _tsv(data: bytes) -> Iterator[Row]:
    return _table((place, line.split("\t")) for place, line in _lines(data, " "))


def _csv(data: bytes) -> Iterator[Row]:
    return _table(_csv_rows(_text(data)))


def _csv_rows(text: str) -> Iterator[tuple[str, list[str]]]:
    reader, begins = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"line {begins}: {error}: is a quote not closed? In quotes, a quote is written twice") from None
        if cells is None:
            return
        if any(LINE.search(cell) for cell in cells):
            raise ValueError(f"line {begins}: a quoted cell goes on over lines: is a quote not closed? Prompts of several "
                             "lines can stand in a .json file")
        if cells:
            yield f"line {begins}", cells
        begins = reader.line_num + 1


def _table(rows: Iterator[tuple[str, list[str]]]) -> Iterator[Row]:
    """Rows under the header, which is the first. Raises `ValueError` for one with another number of cells."""
    _, head = next(rows, ("", []))
    doubled = next((name for name in head if head.count(name) > 1), None)
    if doubled is not None:
        raise ValueError(f"the header names {doubled!r} twice")
    for place, cells in rows:
        if len(cells) != len(head):
            raise ValueError(f"{place} has {len(cells)} cell(s), and the header has {len(head)}: does a prompt hold the "
                             "sign that parts cells? In .csv such a prompt stands in quotes")
        yield Row(place, dict(zip(head, cells)))


def _jsonl(data: bytes) -> Iterator[Row]:
    for place, line in _lines(data):
        try:
            found = parsed(line)
        except ValueError as error:
            raise ValueError(f"{place} is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"{place} must be a JSON object such as {{\"prompt\": \"a frog\"}}, got {_short(found)}")
        yield Row(place, found)


def _json(data: bytes) -> Iterator[Row]:
    found = parsed(_text(data))
    if not isinstance(found, list):
        raise ValueError(f"it must be a list, such as [\"a frog\"] or [{{\"prompt\": \"a frog\"}}], got {_short(found)}")
    for at, item in enumerate(found, start=1):
        if not isinstance(item, (str, dict)):
            raise ValueError(f"prompt {at} must be a text or an object, got {_short(item)}")
        yield Row(f"prompt {at}", item if isinstance(item, dict) else {ONLY: item})


def _parquet(data: bytes) -> Sequence[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadValue("reading parquet needs pyarrow: pip install 'emag[eval]'") from None
    try:
        rows = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    except (OSError, pyarrow.ArrowException, ValueError, MemoryError) as error:
        raise ValueError(f"it is no parquet file that can be read ({str(error).splitlines()[0]})") from None
    return [Row(f"row {at}", row) for at, row in enumerate(rows, start=1)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


READERS = {"txt": _txt, "tsv": _tsv, "csv": _csv, "json": _json, "jsonl": _jsonl, "parquet": _parquet}
