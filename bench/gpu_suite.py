"""Everything that is to be measured on a GPU, in few calls: docs/gpu.md says which.

python bench/gpu_suite.py --out results.json --shapes sd3 --batch 1

Networks have random weights, which cost what trained ones cost. The JSON file is written after every line; a second call
with the same file does what is missing. On a CPU the shapes that begin with "tiny" show that all of it runs.
"""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from gpu.jobs import PARTS, Suite
from gpu.report import show, summary
from gpu.store import Store
from timed.shapes import SHAPES


def names(text: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    """A list with commas. Raises `typer.BadParameter` for what is not `known`."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found or not {*found} <= {*known}:
        raise typer.BadParameter(f"{what} are {', '.join(known)}, got {text!r}")
    return found


def main(
    out: Annotated[Path, typer.Option(help="JSON file of the results; a second call does what is missing in it.")],
    shapes: Annotated[str, typer.Option(help=f"Of {', '.join(SHAPES)}.")] = "sd3",
    parts: Annotated[str, typer.Option(help=f"Of {', '.join(PARTS)}.")] = ",".join(PARTS),
    batch: Annotated[str, typer.Option(help="Images at once.")] = "1,4",
    compiled: Annotated[bool | None, typer.Option("--compiled/--eager", help="Only one of them. [default: both]")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. [default: 28, Wan 10]")] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs of each line.")] = 2,
    budget: Annotated[float, typer.Option(help="Seconds after which nothing more is begun.")] = 540,
    device: Annotated[str, typer.Option(help="cuda or cpu. [default: what there is]")] = "",
    retry: Annotated[bool, typer.Option(help="Try again what failed before.")] = False,
    backend: Annotated[str, typer.Option(help="Of torch.compile.")] = "inductor",
) -> None:
    """Measure emag on this machine's GPU."""
    start = time.monotonic()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    settings = {"device": device, "dtype": str(dtype), "steps": steps, "backend": backend}
    try:
        store = Store.open(out, settings)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if retry:
        store.forget_failed()
    Suite(store, tuple(SHAPES[name] for name in names(shapes, tuple(SHAPES), "shapes")), names(parts, PARTS, "parts"),
          tuple(map(int, batch.split(","))), (False, True) if compiled is None else (compiled,), steps, repeats,
          start + budget, device, dtype, backend).run()
    store.data["summary"] = summary(store.data)
    store.save()
    show(store.data, Console(width=150))


if __name__ == "__main__":
    typer.run(main)
