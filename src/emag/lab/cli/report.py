"""`emag report`: the page of a run."""

from pathlib import Path
from typing import Annotated

import typer

from ...errors import BadValue
from .common import app, out
from .run import evaluation

PAGE = "report.html"


@app.command()
def report(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, local or any fsspec URL.")],
    file: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file; default: report.html in the run.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Recipe to compare with; default: that of emag metrics.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="Image numbers to show.")] = 24,
    cell: Annotated[int, typer.Option(min=32, max=1024, help="Width of shown images, about, in pixels.")] = 128,
    plot: Annotated[list[str] | None, typer.Option(help="Metrics to draw, e.g. fd:accuracy. Repeat; default: the usual.")]
    = None,
) -> None:
    """Write one HTML page of a run: metrics, Pareto fronts, groups, picks, votes and images. It needs no network."""
    with evaluation():
        from ..evaluate.folder import RunFolder
        from ..evaluate.report.page import page
    run = RunFolder(folder)
    data = page(run, baseline, rows, cell, [_pair(text) for text in plot or ()]).encode()
    storage, name = (RunFolder(str(file.absolute().parent)).storage, file.name) if file else (run.storage, PAGE)
    storage.write(name, data)
    out.print(f"{storage.path(name)}: {len(data) / 1e6:.1f} MB", highlight=False, soft_wrap=True)


def _pair(text: str) -> tuple[str, str]:
    x, given, y = text.partition(":")
    if not (x and given and y):
        raise BadValue(f"cannot read --plot {text!r}; write two metrics, e.g. fd:accuracy")
    return x.strip(), y.strip()
