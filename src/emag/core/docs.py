"""What the docstring of a method says, read once: help(), docs, command line and pages all show the same lines.

A method's docstring has one line that says what it does, paragraphs, an `Args:` block with a line a field, and an example.
Fields that a base class explains need no second line. Cost, paper and equation are facts of the class, and are added here.
"""

import inspect
import re
import textwrap
from typing import Any

ARGS = "Args:"
FACTS = {"Cost": "cost", "Paper": "paper", "Equation": "equation"}
EXAMPLE = "\n>>>"


def summary_of(cls: type) -> str:
    """The first line of a docstring: what the method does."""
    return _own(cls).partition("\n")[0]


def body_of(cls: type) -> str:
    """The paragraphs of a docstring: what is neither its first line, nor a field, a fact or an example."""
    lines = _own(cls).partition(EXAMPLE)[0].splitlines()[1:]
    block = _block(lines)
    start = lines.index(ARGS) if block else 0
    rest = lines[:start] + lines[start + len(block):] if block else lines
    return "\n".join(line for line in rest if line.partition(":")[0] not in FACTS).strip()


def example_of(cls: type) -> str:
    """The example of a docstring, prompts included; empty where there is none."""
    _, mark, code = _own(cls).partition(EXAMPLE)
    return mark.strip("\n") + code


def fields_of(cls: type) -> dict[str, str]:
    """What is said of each field, also by base classes: {field: one line}."""
    # from the base down, so that a class has the last word on a field of its own
    told: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        told |= _args(_own(base))
    return told


def completed(cls: Any) -> str:
    """The docstring of `cls` with the fields that its bases explain, and its facts: cost, paper and equation."""
    text, mark, example = _own(cls).partition(EXAMPLE)
    own = _args(text)
    inherited = [_wrapped(name, line) for name, line in fields_of(cls).items() if name not in own]
    lines = text.rstrip().splitlines()
    if inherited and ARGS not in lines:
        lines += ["", ARGS]
    # inherited fields go to the end of the block, behind the class's own
    end = lines.index(ARGS) + len("\n".join(_block(lines)).rstrip().splitlines()) if ARGS in lines else len(lines)
    facts = [f"{word}: {value}" for word, fact in FACTS.items() if (value := getattr(cls, fact, ""))]
    return "\n".join([*lines[:end], *inherited, *lines[end:], "", *facts]) + ("\n" + mark + example if mark else "")


def _wrapped(name: str, line: str) -> str:
    return textwrap.fill(f"{name}: {line}", 118, initial_indent=" " * 4, subsequent_indent=" " * 8)


def _own(cls: type) -> str:
    return inspect.cleandoc(cls.__dict__.get("__doc__") or "")


def _block(lines: list[str]) -> list[str]:
    """The lines of the `Args:` block, its head included."""
    if ARGS not in lines:
        return []
    start = lines.index(ARGS)
    end = next((i for i in range(start + 1, len(lines)) if lines[i] and not lines[i].startswith(" ")), len(lines))
    return lines[start:end]


def _args(text: str) -> dict[str, str]:
    """{field: what is said of it} of the `Args:` block; a line that goes on is indented further."""
    found: dict[str, str] = {}
    for line in _block(text.splitlines())[1:]:
        head = re.match(r" {4}(\w+): (.*)", line)
        if head:
            found[head[1]] = head[2]
        elif found and line.strip():
            found[list(found)[-1]] += " " + line.strip()
    return found
