"""`emag doctor`: which method works where, tried."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ...errors import BadValue
from ...near import choices
from ...shown import visible
from . import common as shared
from .common import command, err, out
from .common import table as folded
from .screen import styled

MARKS = {"works": "yes", "unsupported": "no", "no-effect": "NO EFFECT"}


@command("emag doctor -m tiny pag seg", "emag doctor", "emag doctor --matrix",
         "emag doctor --unknown BriaFiboTransformer2DModel", kept="nothing is kept or changed")
def doctor(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Try this model; none: every small network.")] = None,
    methods: Annotated[list[str] | None, typer.Argument(help="Methods to try; none tries all.")] = None,
    prompts: shared.Prompt = None, prompts_file: shared.PromptFile = None, negative: shared.Negative = None,
    steps: Annotated[int, typer.Option("--steps", "-n", min=2, help="Denoising steps on a model.")] = 8,
    loading: shared.Loading = shared.ANY, as_json: shared.Json = False,
    every: Annotated[bool, typer.Option("--matrix", help="Weak branches on every supported network, beside diffusers' own "
                                        "guiders.")] = False,
    unknown: Annotated[bool, typer.Option("--unknown", help="Read entries of networks that emag does not know, prove and "
                                          "print them; arguments are then classes of diffusers.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="With --matrix: the page docs/coverage.md.")] = False,
) -> None:
    """Try every method: does it act, what does it cost, and if not, why not.

    With --unknown: print the file to add for each network class of the installed diffusers that emag does not know, where
    an entry can be read from a small instance and keeps the laws. Nothing of it is used before somebody adds the file.
    """
    from ..doctor.diagnose import matrix, tried

    if model is None and loading.given:
        raise BadValue(f"{' '.join(loading.words)} is about a model, and none is named: give -m")
    if unknown:
        _unknown(methods or [], as_json)
        return
    if every:
        _matrix(methods or [], as_json, markdown)
        return
    names = sorted({column.label for column in tried()})
    missing = next((name for name in methods or [] if name not in names), None)
    if missing is not None:
        said = choices(missing, names, listed="by default all are tried")
        raise BadValue(f"there is no method {missing} to try; {said}")
    work = _jobs(prompts, prompts_file, negative)
    source = matrix() if model is None else _model(shared.open_pipeline(model, loading), work, steps)
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
    unknown = next((name for name in methods if name not in known), None)
    if unknown is not None:
        raise BadValue(f"--matrix tries weak branches, not {unknown}; {choices(unknown, known)}")
    found = list(_watched(coverage.coverage(methods)))
    if as_json:
        shared.show_json([finding.as_dict() for finding in found])
    elif markdown:
        print(page.markdown(found), end="")
    else:
        out.print(_networks(found))
        for where, reason in page.reasons(found):
            out.print(Text.assemble(styled(where), f": {visible(reason)}"))


def _unknown(names: list[str], as_json: bool) -> None:
    """The files to add, and a row for each class without one."""
    from ..doctor.unknown.guess import guesses

    found = list(_watched(guesses(names), lambda one: one.name))
    if as_json:
        shared.show_json([one.as_dict() for one in found])
        return
    for one in found:
        if one.file:
            print(one.file)
    rest = folded("network", "no entry, because")
    for one in found:
        if not one.file:
            rest.add_row(one.name, one.reason)
    if rest.row_count:
        out.print(rest)
    err.print(f"{sum(bool(one.file) for one in found)} of {len(found)} read and proven")


def _networks(found: list[Any]) -> Table:
    """A row for each network: its methods by what became of them."""
    from ..doctor import page

    table = folded("network", "works", "does not")
    for network in page.networks_of(found):
        tried = {one.method: one.status for one in found if one.backbone == network}
        table.add_row(network, " ".join(name for name, status in tried.items() if status == "works"),
                      " ".join(name + (" (NO EFFECT)" if status == "no-effect" else "") for name, status in tried.items()
                               if status != "works"))
    counts = zip(page.methods_of(found), page.totals(found))
    table.add_row(f"all {len(page.networks_of(found))}", " ".join(f"{method}: {count}" for method, count in counts), "")
    return table


def _jobs(prompts: list[str] | None, file: Path | None, negative: list[str] | None) -> list[Any]:
    """What each method is tried on, in one batch."""
    from ..draw.sampling import jobs

    texts = shared.lines(prompts or [], file, "prompt") if prompts or file else ["a photo of a ship"]
    return jobs(texts, negative or [], [8])


def _model(pipe: Any, work: list[Any], steps: int) -> Any:
    import numpy as np
    import torch

    from ...hosts.lookup import host_of
    from ..doctor.diagnose import diagnose, tried
    from ..draw.sampling import DrawSettings, arguments

    call = arguments(pipe, work, DrawSettings(steps))

    def run(pipe: Any) -> torch.Tensor:
        made = pipe(**call, generator=[torch.Generator().manual_seed(job.seed) for job in work], output_type="np").images
        return torch.from_numpy(np.asarray(made)).double()

    return diagnose(pipe, run, host_of(pipe).name, tried())


def _watched(source: Iterator[Any], told: Callable[[Any], str] = lambda one: f"{one.method} on {one.backbone}"
             ) -> Iterator[Any]:
    with err.status(styled("trying", "")) as status:
        for finding in source:
            status.update(styled(f"tried {told(finding)}", ""))
            yield finding


def _grid(found: list[Any]) -> Table:
    """A row for each method: its effect on each small network, or why there is none."""
    table = folded("method", "network: effect")
    for method in dict.fromkeys(finding.method for finding in found):
        cells = (f"{one.backbone}: {_cell(one)}" for one in found if one.method == method)
        table.add_row(method, ", ".join(cells))
    return table


def _cell(finding: Any) -> str:
    return f"{finding.effect:.2g}" if finding.status == "works" else MARKS[finding.status]


def _reasons(found: list[Any]) -> None:
    out.print("\nnumbers: |image - plain| / |plain| on small random networks; only that it is above zero means something\n")
    for reason in dict.fromkeys(finding.reason for finding in found if finding.reason):
        where = [f"{finding.method} on {finding.backbone}" for finding in found if finding.reason == reason]
        out.print(Text.assemble(styled(", ".join(where)), f": {visible(reason)}"))


def _list(found: list[Any]) -> Table:
    table = folded("method", "works", "effect", "x blocks", "why not")
    for finding in found:
        works = finding.status == "works"
        table.add_row(finding.method, MARKS[finding.status], f"{finding.effect:.2g}" if works else "",
                      f"{finding.evaluations:.2f}" if works else "", finding.reason)
    return table
