"""How the command ends: what was wrong, in one line on standard error, and an exit code."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from ..errors import EmagError
from ..extras import absent
from ..near import nearest
from ..shown import visible
from .app import Interrupted, app
from .screen import say

FAILED, INTERRUPTED = 2, 130
EARLY = "interrupted before it began: nothing was written"
Refused: type[Exception] = typer.BadParameter.__mro__[2]
"""Typer's class of whatever it refuses itself, a wrong command line or a file; it has no public name for it."""


def main() -> None:
    """Run the command. Errors are one line on standard error and exit code 2; ctrl-c is one line and 130."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read at import, here and in worker processes
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character gets its number
    with _warnings():
        sys.exit(exit_code(lambda: app(prog_name="emag", standalone_mode=False)))


def exit_code(command: Callable[[], object]) -> int:
    """Run `command`, and say what went wrong."""
    try:
        code = command() or 0
        sys.stdout.flush()
        return _interrupted(EARLY) if code == INTERRUPTED else int(str(code))
    except Interrupted as error:
        return _interrupted(f"interrupted: {error}")
    except EmagError as error:
        return _failed(str(error))
    except Refused as error:
        return _usage(error)
    except ImportError as error:
        return _failed(absent(error.name) if error.name else str(error))
    except OSError as error:
        return _failed(_refusal(error)) if error.errno != errno.EPIPE else _closed()
    except KeyboardInterrupt:
        return _interrupted(EARLY)


def _failed(message: str) -> int:
    """One line; where the message ends in a list of what is missing, a line for each item."""
    head, *items = (" ".join(part.split()) for part in message.split("\n- "))
    say(f"error: {head}")
    for item in items:
        print(f"- {visible(item)}", file=sys.stderr)
    return FAILED


def _interrupted(message: str) -> int:
    say(message)
    return INTERRUPTED


def _usage(error: Exception) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # the help has been shown
        return FAILED
    context = getattr(error, "ctx", None)
    text = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    if type(error).__name__ == "NoSuchOption" and context:
        text = _no_option(error.option_name, context.command.params)  # type: ignore[attr-defined]
    return _failed(text + (f" (see {context.command_path} --help)" if context else ""))


def _no_option(name: str, params: Sequence[Any]) -> str:
    near = nearest(name, [option for param in params for option in param.opts if option.startswith("--")])
    return f"there is no option {name}" + (f"; did you mean {near}?" if near else "")


def _refusal(error: OSError) -> str:
    """What the system refused, and where."""
    place = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error or type(error).__name__}{place}"


def _closed() -> int:
    """Whoever read our output has gone, as `head` does: not our error, and nothing more can be written there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


class Once(logging.Filter):
    """Lets each message through once: a sheet makes many runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        new = record.getMessage() not in self.seen
        self.seen.add(record.getMessage())
        return new


class _Shown(logging.Formatter):
    """Warnings as the screen shows texts."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


@contextmanager
def _warnings() -> Iterator[None]:
    log, once, handler = logging.getLogger("emag"), Once(), logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Shown())
    log.addFilter(once)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeFilter(once)
        log.removeHandler(handler)
