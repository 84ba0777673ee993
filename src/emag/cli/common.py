"""The application object, and what its commands share: options, model loading, the progress bar."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import recipe
from ..combinations import RECIPES
from ..errors import BadValue
from ..guidance import Rule
from ..sampling import Progress as OnStep
from ..seeds import parsed as seeds_of  # noqa: F401  (the commands read their --seeds with it)

app = typer.Typer(name="emag", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Better images from diffusion transformers at sampling time, without training.")
out, err = Console(), Console(stderr=True)

Model = Annotated[str, typer.Option("--model", "-m", help="Embedded model, local folder or hub id; see `emag models`.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: cuda where there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; default: the model's.")]
Offload = Annotated[str | None, typer.Option(help="model or sequential: keep weights on the CPU between uses.")]
Lora = Annotated[str | None, typer.Option(help="LoRA weights, file, folder or hub id, as path or path:scale.")]
Steps = Annotated[int | None, typer.Option("--steps", "-n", help="Denoising steps; default: the pipeline's.")]
Scale = Annotated[float | None, typer.Option("--scale", help="The pipeline's own guidance scale; 1 is off.")]
Height = Annotated[int | None, typer.Option(help="Image height in pixels.")]
Width = Annotated[int | None, typer.Option(help="Image width in pixels.")]
Seeds = Annotated[str, typer.Option("--seeds", "-s", help="Seeds: 8, 8-11 or 8,13; every prompt with every seed.")]
Rules = Annotated[list[str], typer.Option("--guidance", "-g", help="A rule, in order: emag=1.5,variant=map or apg=4,eta=0. "
                                          "Repeat for more; see `emag methods`.")]
Recipe = Annotated[str | None, typer.Option(help="JSON file with rules, or a recipe by name (`emag methods`); not with -g.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Batch = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images per call of the pipeline.")]
Set = Annotated[list[str], typer.Option("--set", help="Further pipeline argument, key=value; the value is read as JSON.")]


def rules_of(short: list[str], named: str | None) -> tuple[Rule, ...]:
    """Rules from -g options, from a recipe by name, or from a recipe file."""
    if short and named:
        raise BadValue("give rules with -g or with --recipe, not both")
    if named is None:
        return tuple(recipe.parse(text) for text in short)
    return RECIPES[named].rules if named in RECIPES or not Path(named).suffix else recipe.read(named)


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """Pipeline arguments from key=value texts."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, given, value = pair.partition("=")
        if not given or not key.isidentifier():
            raise BadValue(f"cannot read --set {pair!r}; write key=value")
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = value
    return values


def open_pipeline(model: str, device: str | None = None, dtype: str | None = None, offload: str | None = None,
                  lora: str | None = None, revision: str | None = None) -> Any:
    """Load a pipeline, its own progress bar off."""
    from ..models.load import load

    pipe = load(model, device=device, dtype=dtype, offload=offload, lora=lora, revision=revision)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextmanager
def progress(total: int, title: str) -> Iterator[tuple[OnStep, Any]]:
    """A bar over `total` calls of the pipeline: a callback for steps, and one for a finished call."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("calls"),
               TextColumn("{task.fields[step]}"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=total, step="")

        def on_step(done: int, count: int) -> None:
            bar.update(task, completed=int(bar.tasks[0].fields.get("calls", 0)) + done / count, step=f"step {done}/{count}")

        def finished(calls: int) -> None:
            bar.update(task, completed=calls, calls=calls)

        yield on_step, finished


class Once(logging.Filter):
    """Lets each message through once: a sheet makes many runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        new = record.getMessage() not in self.seen
        self.seen.add(record.getMessage())
        return new


def show_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False))
