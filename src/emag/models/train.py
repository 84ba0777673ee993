"""Train a small text-to-image model for `emag.load`: python -m emag.models.train OUT --data train.parquet."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from ..errors import BadValue, EmagError
from ..files import check_folder, whole
from ..sheets import sheet
from . import checkpoint, data
from .load import pick_device, pick_dtype
from .progress import COLUMNS, Budget, Clock, Meter, stop_on_signals
from .trainer import Settings, Trainer

SHEET_STEPS, SHEET_IMAGES = 16, 6


def train(trainer: Trainer, out: Path, budget: Budget, save_minutes: float = 5.0, sheet_minutes: float = 10.0,
          stopped: Callable[[], bool] = lambda: False, console: Console | None = None) -> bool:
    """Train until the budget is used up, continuing the run in `out` if there is one; True where it got there.

    Saves every `save_minutes` (0: every step) and at the end, and draws a sheet of samples every `sheet_minutes` and at
    the end (0: none). `stopped` is asked after each step: True saves and ends. Raises `BadValue` where `out` holds
    something else or the loss is no longer a number.
    """
    console = console or Console()
    clock = Clock(checkpoint.restore(trainer, out))
    _tell(console, f"{out}: {'continues' if trainer.step else 'starts'} at step {trainer.step}, "
                   f"{trainer.millions:.1f} M parameters on {trainer.device}")
    with Progress(*COLUMNS, console=console) as progress:
        meter = Meter(trainer, progress)
        while (used := budget.fraction(trainer.step, clock.seconds)) < 1 and not stopped():
            meter.add(trainer.advance(used), used)
            if clock.due("save", save_minutes):
                _save(trainer, out, clock, meter, console)
            if sheet_minutes and clock.due("sheet", sheet_minutes):
                _tell(console, str(draw(trainer, out)))
        meter.show(used)
    _save(trainer, out, clock, meter, console)
    if sheet_minutes and used >= 1:
        _tell(console, str(draw(trainer, out)))
    return used >= 1


def _save(trainer: Trainer, out: Path, clock: Clock, meter: Meter, console: Console) -> None:
    checkpoint.save(trainer, out, clock.seconds)
    _tell(console, f"{out}: saved at step {trainer.step}, loss {meter.loss:.4f}")


def _tell(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def draw(trainer: Trainer, out: Path) -> Path:
    """Write a sheet of samples, one row per class, the same noise in every row; returns its path."""
    pipe, seeds = trainer.pipeline(), range(SHEET_IMAGES)
    rows = [pipe([name] * SHEET_IMAGES, num_inference_steps=SHEET_STEPS,
                 generator=[torch.Generator().manual_seed(seed) for seed in seeds]).images for name in pipe.classes]
    path = out / "samples" / f"step-{trainer.step:07d}.png"
    page = sheet(rows, [f"seed {seed}" for seed in seeds], pipe.classes, f"step {trainer.step}", cell=96)
    with whole(path) as draft:
        page.save(draft, format="PNG")
    return path


def command(
    out: Annotated[Path, typer.Argument(help="Folder of the model; a run in it is continued.")],
    source: Annotated[str, typer.Option("--data", help="Parquet file, folder of them, or hub dataset.")] = "uoft-cs/cifar10",
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Minutes to train in all; 60 without --steps.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps to train in all.")] = None,
    classes: Annotated[str, typer.Option(help="Class names in the order of the labels.")] = ",".join(data.CIFAR10),
    size: Annotated[int, typer.Option(min=4, help="Height and width of the images.")] = 32,
    layers: Annotated[int, typer.Option(min=2, help="Transformer blocks.")] = 8,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads, of 64 channels each.")] = 3,
    patch: Annotated[int, typer.Option(min=1, help="Patch size in pixels.")] = 4,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 256,
    lr: Annotated[float, typer.Option(min=0.0, help="Highest learning rate.")] = 1.5e-3,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.")] = True,
    words: Annotated[str | None, typer.Option(help="Model whose words are taken and kept, as its guide must.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of weights, noise and order.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default cuda if there is one.")] = None,
    dtype: Annotated[str, typer.Option(help="Autocast to bfloat16, or float32.")] = "bfloat16",
    save_minutes: Annotated[float, typer.Option(min=0.0, help="Minutes between checkpoints; 0: every step.")] = 5.0,
    sheet_minutes: Annotated[float, typer.Option(min=0.0, help="Minutes between sample sheets; 0: none.")] = 10.0,
) -> None:
    """Train a small SD3-style transformer on labelled images, from nothing, with rectified flow.

    Stop it at any time; the same command continues. OUT is a model that emag.load(OUT) reads, with sample sheets in
    OUT/samples.
    """
    try:
        settings = _settings(classes, size=size, layers=layers, heads=heads, patch=patch, batch_size=batch_size, lr=lr,
                             flip=flip, seed=seed, words=words)
        check_folder(out)
        images = data.read(source, size, len(settings.classes))
        trainer = Trainer(settings, images, pick_device(device), _autocast(dtype))
        budget = Budget(steps, 60.0 if steps is None and minutes is None else minutes)
        with stop_on_signals() as stopped:
            finished = train(trainer, out, budget, save_minutes, sheet_minutes, stopped)
    except EmagError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if not finished:
        typer.echo("stopped; the same command continues", err=True)
        raise typer.Exit(130)


def _settings(classes: str, **values: Any) -> Settings:
    names = tuple(name.strip() for name in classes.split(",") if name.strip())
    if len(set(names)) != len(names) or not names:
        raise BadValue("--classes needs at least one name, and each only once")
    if values["size"] % values["patch"]:
        raise BadValue(f"--size {values['size']} is not a multiple of --patch {values['patch']}")
    return Settings(classes=names, **values)


def _autocast(dtype: str) -> torch.dtype:
    if dtype not in ("bfloat16", "float32"):
        raise BadValue(f"--dtype must be bfloat16 or float32, got {dtype!r}")
    return pick_dtype(dtype) or torch.float32


if __name__ == "__main__":
    typer.run(command)
