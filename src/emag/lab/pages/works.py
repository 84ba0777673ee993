"""The works of the field, what carries each here, and what proves it: docs/works.md."""

from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from typing import Any

import yaml

from .catalogue import catalogue
from .methods import MADE, anchor, cell

STATES = {
    "there": "there",
    "partly": "partly there",
    "function": "there as a function of tensors, without a host that calls it",
    "open": "not there yet",
    "nothing": "nothing to build: the work has no guidance at sampling time",
}


@dataclass(frozen=True)
class Work:
    """A work, the objects that carry it (dotted names) and the tests that prove it (file::function, below tests/)."""

    name: str
    title: str
    state: str
    objects: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    note: str = ""


def works() -> dict[int, Work]:
    """All works by number."""
    data = yaml.safe_load((files(__package__) / "works.yaml").read_text("utf-8"))
    return {number: _work(row) for number, row in data.items()}


def _work(row: dict[str, Any]) -> Work:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return Work(**values)


def found(name: str) -> Any:
    """The object of a dotted name. Raises AttributeError or ModuleNotFoundError."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def markdown() -> str:
    """The page."""
    rows = works()
    counts = Counter(work.state for work in rows.values())
    anchors = {method["class"].rpartition(".")[2]: f"methods/{method['kind']}.md#{anchor(method['name'])}"
               for method in catalogue()}
    lines = ["# The works of the field", "", MADE.replace("the docstrings and the tables of defaults", "a table"), "",
             f"{len(rows)} works about guidance and what neighbours it: which object carries each, and a test that fails "
             "when it is broken.", ""]
    lines += [f"- {counts[state]} {words}" for state, words in STATES.items()]
    lines += ["", "| # | work | state | carried by | proved by |", "|---|---|---|---|---|"]
    lines += [f"| {number} | {_row(work, anchors)} |" for number, work in rows.items()]
    return "\n".join(lines) + "\n"


def _row(work: Work, anchors: dict[str, str]) -> str:
    title = f"**{cell(work.name)}**: {cell(work.title)}"
    note = {"partly": f"; missing: {work.note}"}.get(work.state, f"; {work.note}") if work.note else ""
    state = {"function": "a function of tensors"}.get(work.state, STATES[work.state].partition(":")[0])
    objects = ", ".join(_linked(name, anchors) for name in work.objects)
    return " | ".join([title, cell(state + note), objects, ", ".join(f"`{test}`" for test in work.tests)])


def _linked(name: str, anchors: dict[str, str]) -> str:
    short = name.rpartition(".")[2]
    return f"[`{name}`]({anchors[short]})" if short in anchors else f"`{name}`"
