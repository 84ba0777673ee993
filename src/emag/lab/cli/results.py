"""`emag results`: a page of what stored runs show."""

from pathlib import Path
from typing import Annotated

import typer

from . import common as shared
from .common import command, file_in


@command("emag results runs/first runs/sweep -o docs/results/tiny.md",
         kept="nothing was written, or the page is whole; the same command starts again", needs=("eval",))
def results(
    sources: Annotated[list[str], typer.Argument(metavar="FOLDER...", help="Measured run folders, and the folder of the "
                                                 "sweep that chose their settings; or the JSON file of an earlier page.")],
    out_path: Annotated[Path, typer.Option("--out", "-o", help="Folder for results.md, or a name that ends in .md; numbers "
                                           "(.json) and picture (.png) go beside.")],
    against: Annotated[str | None, typer.Option(help="The recipe that others are compared with; default: cfg.")] = None,
    again: Annotated[list[str] | None, typer.Option(help="A command that makes the runs again. Repeat.")] = None,
    questions: Annotated[Path | None, typer.Option(help="YAML list of {question, pairs: [[recipe, base]], metrics} "
                                                   "that the page answers.")] = None,
    changes: Annotated[str | None, typer.Option(help="Recipe whose mended and broken images are shown; of a judged run.")]
    = None,
    listed: Annotated[Path | None, typer.Option("--index", help="Also write this .md, a list of all pages beside the one "
                                                "that is written.")] = None,
    as_json: shared.Json = False,
) -> None:
    """Write a page of results: tables with intervals, fronts, and sentences that follow from the numbers."""
    from ...files import whole
    from ..evaluate.results.index import index
    from ..evaluate.results.write import results_of, write

    page, pages = file_in(out_path, "results.md"), file_in(listed, "results.md") if listed is not None else None
    written = write(results_of(sources, against, again or (), questions, changes), page, sources)
    if pages is not None:
        with whole(pages) as draft:
            draft.write_text(index(written[0].parent), encoding="utf-8")
        written.append(pages)
    shared.show_files(written, as_json)
