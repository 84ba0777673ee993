"""How a command of training ends: what was wrong in one line, and whether the run is finished."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ...errors import EmagError

WRONG, STOPPED = 2, 130


@contextmanager
def told_errors() -> Iterator[None]:
    """Errors made on purpose become one line and exit code 2."""
    try:
        yield
    except EmagError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(WRONG) from None


def leave_unless(finished: bool) -> None:
    """Of a run that was stopped, say how it goes on, and end with the code of a command that was interrupted."""
    if not finished:
        typer.echo("stopped; the same command continues", err=True)
        raise typer.Exit(STOPPED)
