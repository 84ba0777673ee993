"""`emag report`: the page of a run."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import BadValue
from . import common as shared
from .common import command, file_in, out

PAGE = "report.html"


@command("emag report runs/first", "emag report runs/first --against cfg --plot fd:accuracy -o report.html",
         kept="nothing was written; the same command starts again", needs=("eval",))
def report(
    folder: shared.RunFolder,
    out_path: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for report.html, or a name that ends in "
                                                  ".html; default: the run.")] = None,
    baseline: Annotated[str | None, typer.Option("--against", "--baseline", help="Recipe to compare with; default: that of "
                                                 "emag metrics.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="Image numbers to show.")] = 24,
    cell: Annotated[int, typer.Option(min=32, max=1024, help="Width of shown images, about, in pixels.")] = 128,
    plot: Annotated[list[str] | None, typer.Option(help="Metrics to draw, e.g. fd:accuracy. Repeat; default: the usual.")]
    = None,
    as_json: shared.Json = False,
) -> None:
    """Write one HTML page of a run: metrics, Pareto fronts, groups, picks, votes and images. It needs no network."""
    from ..evaluate.folder import RunFolder
    from ..evaluate.report.page import page

    file = file_in(out_path, PAGE) if out_path else None
    run = RunFolder(folder)
    if file is None:
        run.storage.check()
    data = page(run, baseline, rows, cell, [_pair(text) for text in plot or ()]).encode()
    storage, name = (RunFolder(str(file.absolute().parent)).storage, file.name) if file else (run.storage, PAGE)
    storage.write(name, data)
    if as_json:
        shared.show_json({"page": storage.path(name), "bytes": len(data)})
        return
    out.print(f"{storage.path(name)}: {len(data) / 1e6:.1f} MB")


def _pair(text: str) -> tuple[str, str]:
    x, given, y = text.partition(":")
    if not (x and given and y):
        raise BadValue(f"cannot read --plot {text!r}; write two metrics, e.g. fd:accuracy")
    return x.strip(), y.strip()
