"""What the commands write on: every text on it is text, whoever wrote it, and it fits in 80 columns."""

import json
import sys
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.protocol import is_renderable
from rich.table import Table
from rich.text import Text

from ...shown import BIDI, visible


class Screen(Console):
    """A console that reads no markup and no emoji codes, and shows control characters. Styles are given by `Text`.

    Strings are folded between words; a word longer than a line, such as a path, stays whole.
    """

    def __init__(self, **more: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **more)

    def render_str(self, text: str, **more: Any) -> Text:
        return super().render_str(visible(text, lines=True), **{**more, "markup": False, "emoji": False, "highlight": False})

    def print(self, *objects: Any, **more: Any) -> None:
        if all(isinstance(one, str) or not is_renderable(one) for one in objects):
            super().print(*(folded(str(one), self.width) for one in objects), **{"soft_wrap": True, **more})
        else:
            super().print(*objects, **more)


def folded(text: str, width: int) -> str:
    """A text in lines of at most `width`, broken between words; a line that starts with blanks stays as it is."""
    return "\n".join(line if line[:1] == " " else _wrapped(line, width) for line in text.split("\n"))


def _wrapped(line: str, width: int) -> str:
    return "\n".join(wrap(line, width, break_long_words=False, break_on_hyphens=False))


out, err = Screen(), Screen(stderr=True)


def table(*heads: str) -> Table:
    """A table without lines; what does not fit is folded, and names in the first column are never cut."""
    made = Table(box=None, pad_edge=False)
    for at, head in enumerate(heads):
        made.add_column(head, overflow="fold", no_wrap=at == 0)
    return made


def styled(text: str, style: str = "bold") -> Text:
    """A text in a style, as the screen shows texts."""
    return Text(visible(text, lines=True), style)


def show_json(value: Any) -> None:
    """Print a value as JSON on standard output, in characters that a terminal shows and does not obey."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    print("".join(f"\\u{ord(one):04x}" if _obeyed(one) else one for one in text))


def _obeyed(one: str) -> bool:
    return one in BIDI or "\x7f" <= one <= "\x9f" or "\ud800" <= one <= "\udfff" or one in "\u2028\u2029"


def say(message: str) -> None:
    """One line on standard error."""
    print(f"emag: {visible(message)}", file=sys.stderr, flush=True)
