"""`emag results`: a page of what stored runs show."""

from pathlib import Path
from typing import Annotated

import typer

from ...errors import BadValue
from .common import app, out
from .run import evaluation


@app.command()
def results(
    sources: Annotated[list[str], typer.Argument(metavar="FOLDER...", help="Measured run folders, and the folder of the "
                                                 "sweep that chose their settings; or the JSON file of an earlier page.")],
    page: Annotated[Path, typer.Option("--out", "-o", help="Markdown file; numbers (.json) and picture (.png) go beside.")],
    against: Annotated[str | None, typer.Option(help="The recipe that others are compared with; default: cfg.")] = None,
    again: Annotated[list[str] | None, typer.Option(help="A command that makes the runs again. Repeat.")] = None,
) -> None:
    """Write a page of results: tables with intervals, fronts, and sentences that follow from the numbers."""
    with evaluation():
        from ..evaluate.results.write import results_of, write
    if page.suffix != ".md":
        raise BadValue(f"--out is a Markdown file such as docs/results.md, got {page}")
    for path in write(results_of(sources, against, again or ()), page):
        out.print(path, highlight=False)
