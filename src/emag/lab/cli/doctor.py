"""`emag doctor`: which method works where, tried."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table

from ...errors import BadValue
from ...hosts.lookup import lookup
from ...testing.small import MATRIX
from ..doctor.diagnose import diagnose, matrix, tried
from ..doctor.finding import Finding
from ..draw.sampling import Job, Settings, arguments
from . import common as shared
from .common import app, err, out

MARKS = {"works": "yes", "unsupported": "no", "no-effect": "NO EFFECT"}


@app.command()
def doctor(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Try this model; none: every small network.")] = None,
    methods: Annotated[list[str] | None, typer.Argument(help="Methods to try; none tries all.")] = None,
    prompt: Annotated[str, typer.Option(help="Prompt (or class label) for a model.")] = "a photo of a ship",
    steps: Annotated[int, typer.Option("--steps", "-n", min=2, help="Denoising steps on a model.")] = 8,
    device: shared.Device = None, dtype: shared.Dtype = None, offload: shared.Offload = None, as_json: shared.Json = False,
    every: Annotated[bool, typer.Option("--matrix", help="Weak branches on every supported network, beside diffusers' own "
                                        "guiders.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="With --matrix: the page docs/coverage.md.")] = False,
) -> None:
    """Try every method: does it act, what does it cost, and if not, why not."""
    if every:
        _matrix(methods or [], as_json, markdown)
        return
    names = {column.label for column in tried()}
    if set(methods or []) - names:
        raise BadValue(f"there is no method {', '.join(sorted(set(methods or []) - names))} to try; there are "
                       f"{', '.join(sorted(names))}")
    source = matrix() if model is None else _model(model, prompt, steps, device, dtype, offload)
    found = [finding for finding in _watched(source) if not methods or finding.method in methods]
    if as_json:
        shared.show_json([finding.as_dict() for finding in found])
    elif model is None:
        out.print(_grid(found))
        _reasons(found)
    else:
        out.print(_list(found))


def _matrix(methods: list[str], as_json: bool, markdown: bool) -> None:
    from ..doctor import coverage, page

    known = [column.label for column in coverage.METHODS]
    if set(methods) - set(known):
        raise BadValue(f"--matrix tries {', '.join(known)}; not {', '.join(sorted(set(methods) - set(known)))}")
    found = list(_watched(coverage.coverage(methods)))
    if as_json:
        shared.show_json([finding.as_dict() for finding in found])
    elif markdown:
        print(page.markdown(found), end="")
    else:
        table = Table("network", *page.methods_of(found), box=None)
        for network in page.networks_of(found):
            table.add_row(network, *(cell.strip("*") for cell in page.cells(found, network)))
        table.add_row("works on", *map(str, page.totals(found)))
        out.print(table)
        for where, reason in page.reasons(found):
            out.print(f"[bold]{where}[/bold]: {reason}", highlight=False)


def _model(model: str, prompt: str, steps: int, device: str | None, dtype: str | None, offload: str | None) -> Any:
    pipe = shared.open_pipeline(model, device, dtype, offload)
    call = arguments(pipe, [Job(prompt, None, 8)], Settings(steps))

    def run(pipe: Any) -> torch.Tensor:
        made = pipe(**call, generator=torch.Generator().manual_seed(8), output_type="np").images
        return torch.from_numpy(np.asarray(made)).double()

    return diagnose(pipe, run, lookup(pipe).name, tried())


def _watched(source: Iterator[Finding]) -> Iterator[Finding]:
    with err.status("trying") as status:
        for finding in source:
            status.update(f"tried {finding.method} on {finding.backbone}")
            yield finding


def _grid(found: list[Finding]) -> Table:
    cases = [name for name in MATRIX if any(finding.backbone == name for finding in found)]
    table = Table("method", box=None)
    table.columns[0].no_wrap = True
    for case in cases:
        table.add_column(case)
    for method in dict.fromkeys(finding.method for finding in found):
        cells = {finding.backbone: finding for finding in found if finding.method == method}
        table.add_row(method, *(_cell(cells[case]) for case in cases))
    return table


def _cell(finding: Finding) -> str:
    return f"{finding.effect:.2g}" if finding.status == "works" else MARKS[finding.status]


def _reasons(found: list[Finding]) -> None:
    out.print("\nnumbers: |image - plain| / |plain| on small random networks; only that it is above zero means something\n")
    for reason in dict.fromkeys(finding.reason for finding in found if finding.reason):
        where = [f"{finding.method} on {finding.backbone}" for finding in found if finding.reason == reason]
        out.print(f"[bold]{', '.join(where)}[/bold]: {reason}", highlight=False)


def _list(found: list[Finding]) -> Table:
    table = Table("method", "works", "effect", "x block evaluations", "why not", box=None)
    for finding in found:
        works = finding.status == "works"
        table.add_row(finding.method, MARKS[finding.status], f"{finding.effect:.3f}" if works else "",
                      f"{finding.evaluations:.2f}" if works else "", finding.reason)
    return table
