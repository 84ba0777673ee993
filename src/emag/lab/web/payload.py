"""What the body of a request names: files that were dropped on this page, and no others.

Gradio takes whatever mapping has a `path` for a file: an address it fetches, a path of this machine it copies to where its
files are served. Whether the file came from the page it asks only where it opened the server itself, and ours is our own.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def refusal(body: bytes, uploads: Path) -> tuple[int, str] | None:
    """Status and reason for a body that names another file. uploads: the folder of those that were dropped."""
    try:
        data = json.loads(body) if body else None
    except (ValueError, RecursionError):
        return 400, "the body is no JSON"
    return None if all(_inside(path, uploads) for path in _paths(data)) else (403, "a file that was not dropped here")


def _paths(data: Any) -> Iterator[Any]:
    """The `path` of every mapping; `data` may be nested as deep as JSON can be read."""
    rest = [data]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            if "path" in one:
                yield one["path"]
            rest.extend(one.values())
        elif isinstance(one, list):
            rest.extend(one)


def _inside(path: Any, folder: Path) -> bool:
    try:
        return isinstance(path, str) and Path(path).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a null character, a loop of links
        return False
