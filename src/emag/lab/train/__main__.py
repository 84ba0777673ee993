"""Train a small text-to-image model for `emag.load`: python -m emag.lab.train OUT (--data FILE or --world shapes)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from ...errors import BadValue
from ...files import check_folder, whole
from ...hosts.load import pick_device, pick_dtype
from ...models import WEIGHTS, folder
from .. import labelled
from ..draw.sheets import sheet
from . import checkpoint
from .ending import leave_unless, told_errors
from .progress import COLUMNS, Budget, Clock, Meter, stop_on_signals
from .trainer import WORLDS, Trainer, TrainSettings
from .world import Scenes

SHEET_STEPS, SHEET_IMAGES = 16, 6


def train(trainer: Trainer, out: Path, budget: Budget, save_minutes: float = 5.0, sheet_minutes: float = 10.0,
          stopped: Callable[[], bool] = lambda: False, console: Console | None = None, keep: Sequence[float] = ()) -> bool:
    """Train until the budget is used up, continuing the run in `out` if there is one; True where it got there.

    Saves every `save_minutes` (0: every step) and at the end, and draws a sheet of samples every `sheet_minutes` and at
    the end (0: none). `keep`: shares of the budget at which the model is also saved as it is then, in out/kept. `stopped`
    is asked after each step: True saves and ends. Raises `BadValue` where `out` holds something else or the loss is no
    longer a number.
    """
    console = console or Console()
    clock = Clock(checkpoint.restore(trainer, out))
    _tell(console, f"{out}: {'continues' if trainer.step else 'starts'} at step {trainer.step}, "
                   f"{trainer.millions:.1f} M parameters on {trainer.device}")
    with Progress(*COLUMNS, console=console) as progress:
        meter = Meter(trainer, progress)
        while (used := budget.fraction(trainer.step, clock.seconds)) < 1 and not stopped():
            _keep(trainer, out, clock, [share for share in keep if used >= share])
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


def _keep(trainer: Trainer, out: Path, clock: Clock, shares: Sequence[float]) -> None:
    """Save the model at the last of the shares that were reached, where that has not been done."""
    if shares and not ((place := out / "kept" / f"{max(shares):g}") / folder.PROMPT).exists():  # written last
        checkpoint.export(trainer, place, clock.seconds)


def _tell(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def draw(trainer: Trainer, out: Path) -> Path:
    """Write a sheet of samples, one row per prompt, the same noise in every row; returns its path."""
    pipe, seeds, prompts = trainer.pipeline(), range(SHEET_IMAGES), trainer.task.prompts
    rows = [pipe([prompt] * SHEET_IMAGES, num_inference_steps=SHEET_STEPS,
                 generator=[torch.Generator().manual_seed(seed) for seed in seeds]).images for prompt in prompts]
    path = out / "samples" / f"step-{trainer.step:07d}.png"
    page = sheet(rows, [f"seed {seed}" for seed in seeds], prompts, f"step {trainer.step}", cell=96)
    with whole(path) as draft:
        page.save(draft, format="PNG")
    return path


def command(
    out: Annotated[Path, typer.Argument(help="Folder of the model; a run in it is continued.")],
    source: Annotated[str, typer.Option("--data", help="Parquet file, folder of them, or hub dataset.")] = "uoft-cs/cifar10",
    world: Annotated[str | None, typer.Option(help="Draw scenes of a world (shapes) instead of reading --data.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Minutes to train in all; 60 without --steps.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps to train in all.")] = None,
    classes: Annotated[str | None, typer.Option(help="Class names in the order of the labels.")] = None,
    size: Annotated[int | None, typer.Option(min=4, help="Height and width of the images.")] = None,
    layers: Annotated[int | None, typer.Option(min=2, help="Transformer blocks.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads.")] = None,
    patch: Annotated[int | None, typer.Option(min=1, help="Patch size in pixels, or in latents.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option(min=0.0, help="Highest learning rate.")] = None,
    muon: Annotated[float | None, typer.Option(min=0.0, help="Highest rate of Muon, in the blocks; 0: none.")] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help="Mirror half of the images.")] = None,
    words: Annotated[str | None, typer.Option(help="Model whose words are taken and kept, as its guide must.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of weights, noise and order.")] = 0,
    pool: Annotated[int, typer.Option(min=1, help="Scenes of a world that are drawn, before the training.")] = 131072,
    autoencoder: Annotated[Path, typer.Option(help="Folder of the autoencoder of a world's scenes.")] = WEIGHTS / "shapes",
    keep: Annotated[str, typer.Option(help="Shares of the run at which the model is kept, e.g. 0.1,0.33.")] = "",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default cuda if there is one.")] = None,
    dtype: Annotated[str, typer.Option(help="Autocast to bfloat16, or float32.")] = "bfloat16",
    save_minutes: Annotated[float, typer.Option(min=0.0, help="Minutes between checkpoints; 0: every step.")] = 5.0,
    sheet_minutes: Annotated[float, typer.Option(min=0.0, help="Minutes between sample sheets; 0: none.")] = 10.0,
) -> None:
    """Train a small SD3-style transformer on labelled images or on a world, from nothing, with rectified flow.

    Stop it at any time; the same command continues. OUT is a model that emag.load(OUT) reads, with sample sheets in
    OUT/samples. What is not given is as for the embedded model: 32 pixels, 8 blocks of 3 heads, patch 4, batches of 256 for
    pictures; 6 blocks of 4 heads, patch 2, batches of 32 and Muon for the world of shapes.
    """
    with told_errors():
        settings = _settings(world, classes, size=size, layers=layers, heads=heads, patch=patch, batch_size=batch_size,
                             lr=lr, muon=muon, flip=flip, seed=seed, words=words)
        shares, number = _shares(keep), _autocast(dtype)
        check_folder(out)
        task = (labelled.read(source, settings.size, len(settings.classes)) if world is None
                else Scenes(out / "pool", pool, folder.autoencoder(autoencoder)))
        trainer = Trainer(settings, task, pick_device(device), number)
        budget = Budget(steps, 60.0 if steps is None and minutes is None else minutes)
        with stop_on_signals() as stopped:
            finished = train(trainer, out, budget, save_minutes, sheet_minutes, stopped, keep=shares)
    leave_unless(finished)


def _settings(world: str | None, classes: str | None, **values: Any) -> TrainSettings:
    given = {name: value for name, value in values.items() if value is not None}
    if world is not None:
        return _of_world(world, {**given, **({} if classes is None else {"classes": classes})})
    names = tuple(name.strip() for name in (classes or ",".join(labelled.CIFAR10)).split(",") if name.strip())
    if len(set(names)) != len(names) or not names:
        raise BadValue("--classes needs at least one name, and each only once")
    return _fitting(replace(TrainSettings(classes=names), **given))


def _of_world(world: str, given: dict[str, Any]) -> TrainSettings:
    if world not in WORLDS:
        raise BadValue(f"--world must be one of {', '.join(WORLDS)}, got {world!r}")
    useless = [f"--{name}" for name in ("classes", "size", "flip") if name in given]
    if useless:
        raise BadValue(f"{', '.join(useless)} says nothing about a world: leave it out with --world")
    return _fitting(replace(WORLDS[world], **given))


def _fitting(settings: TrainSettings) -> TrainSettings:
    if settings.size % settings.patch:
        raise BadValue(f"--size {settings.size} is not a multiple of --patch {settings.patch}")
    return settings


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(sorted(float(part) for part in text.split(",") if part.strip()))
    except ValueError:
        raise BadValue(f"--keep must be shares such as 0.1,0.33, got {text!r}") from None
    if not all(0 < share <= 1 for share in shares):
        raise BadValue(f"--keep must be shares above 0 and up to 1, got {text!r}")
    return shares


def _autocast(dtype: str) -> torch.dtype:
    if dtype not in ("bfloat16", "float32"):
        raise BadValue(f"--dtype must be bfloat16 or float32, got {dtype!r}")
    return pick_dtype(dtype) or torch.float32


if __name__ == "__main__":
    typer.run(command)
