"""`emag worth`: which guidance is worth its evaluations, from stored results."""

from pathlib import Path
from typing import Annotated

import typer

from . import common as shared
from .common import command, file_in


@command("emag worth docs/results/shapes.json docs/results/tiny.json -o docs/worth.md",
         kept="nothing was written, or the page is whole; the same command starts again", needs=("eval",))
def worth(
    sources: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSON files of `emag results`.")],
    out_path: Annotated[Path, typer.Option("--out", "-o", help="Folder for worth.md, or a name that ends in .md; a "
                                           "picture for each file goes beside.")],
    as_json: shared.Json = False,
) -> None:
    """Write a page that says what each method gives for the evaluations it takes, on each model, and what to use."""
    from ..evaluate.results.write import write_worth

    shared.show_files(write_worth(sources, file_in(out_path, "worth.md")), as_json)
