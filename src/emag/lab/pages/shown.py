"""For the site alone: an extension of mkdocstrings' reader (griffe) that gives a class the docstring help() shows.

The docstring of a method is completed as its class is made (`core/docs.py`); a reader of source text does not see that.
"""

import importlib
import inspect
import re
from typing import Any

import griffe

from ...core.docs import FACTS


class Shown(griffe.Extension):
    """Docstrings as help() has them, their examples in a block of code."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        if cls.docstring is not None and inspect.isclass(found := _value(cls)):
            cls.docstring.value = fenced(listed(inspect.cleandoc(found.__doc__ or "")))


def _value(cls: griffe.Class) -> Any:
    return getattr(importlib.import_module(cls.module.path), cls.name, None)


def listed(text: str) -> str:
    """A docstring whose facts, a line each, are a list: Markdown would make one line of them."""
    return re.sub(rf"^({'|'.join(FACTS)}): (.+)$", r"- **\1**: `\2`", text, flags=re.M)


def fenced(text: str) -> str:
    """A docstring whose example, from the first prompt to the end of its lines, is a block of code in Markdown."""
    head, mark, example = text.partition("\n>>>")
    return f"{head}\n```pycon\n>>>{example.rstrip()}\n```" if mark else text
