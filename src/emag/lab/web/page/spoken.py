"""What a person is told when something goes wrong: the one line of the error, as text."""

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import gradio as gr

from ....errors import EmagError
from ....shown import visible


def line(text: object) -> str:
    """A text of the user's, or an error, as one line of HTML."""
    return escape(visible(" ".join(str(text).split())))


@contextmanager
def spoken() -> Iterator[None]:
    """Errors of ours are shown on the page, and stay off the terminal."""
    try:
        yield
    except EmagError as error:
        raise gr.Error(line(error), print_exception=False, duration=12) from None
