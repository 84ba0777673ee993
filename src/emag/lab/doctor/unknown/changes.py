"""What another release of diffusers changes: `python -m emag.lab.doctor.unknown.changes BEFORE.json`, run on that release.

BEFORE.json is what `emag doctor --unknown --json` said on the release before.
"""

import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers

from ....families import BACKBONES
from ...pages.standing import standing
from .guess import guesses


def changes(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines on networks that no family has: new, gone, proven now or no longer; with the file where there is one."""
    was, found = ({one["network"]: one for one in said} for said in (before, now))
    for name in sorted(was.keys() | found.keys()):
        old, new = was.get(name), found.get(name)
        if new is None:
            yield f"- {name}: is no longer there, or a family has it now"
        elif old is None or old["proven"] != new["proven"]:
            kind = "is new" if old is None else "has changed"
            yield f"- {name}: {kind}; " + ("an entry was read and proven" if new["proven"] else f"no entry: {new['reason']}")
            if new["file"]:
                yield f"\n```python\n{new['file']}```\n"


def broken() -> Iterator[str]:
    """Lines on networks of our families that the installed diffusers lacks, or that take other arguments there."""
    for name, entry in BACKBONES.items():
        cls = getattr(diffusers, name, None)
        if cls is None:
            yield f"- {name}: diffusers has it no longer"
            continue
        lost = [one for one in entry.per_row if one not in inspect.signature(cls.forward).parameters]
        if lost:
            yield f"- {name}: its forward no longer takes {', '.join(lost)}"


def untold() -> Iterator[str]:
    """Lines on classes of the installed diffusers that no family has, and of which nothing is written."""
    for one in standing():
        if one.status == "unknown":
            yield f"- {one.name}: a {one.kind} of which nothing is written; a line for families/unserved.py, or an entry"


def main(path: str) -> None:
    """Print all changes as Markdown."""
    before = json.loads(Path(path).read_text())
    lines = [*broken(), *untold(), *changes(before, [one.as_dict() for one in guesses()])]
    print(f"# diffusers {diffusers.__version__}\n")
    print("\n".join(lines or ["Nothing that emag looks at has changed."]))


if __name__ == "__main__":
    main(sys.argv[1])
