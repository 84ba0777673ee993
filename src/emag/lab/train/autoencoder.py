"""Train the autoencoder of the world of shapes: python -m emag.lab.train.autoencoder OUT --minutes 60."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from safetensors import SafetensorError, safe_open

from ...errors import BadValue
from ...models import folder
from .autoencoder_trainer import AutoencoderTrainer, Settings, quality
from .ending import leave_unless, told_errors
from .progress import Budget, Clock, stop_on_signals

FILE, HEADER, REPORT = "training.safetensors", "emag_training", 500


def train(trainer: AutoencoderTrainer, out: Path, budget: Budget, save_minutes: float = 5.0,
          stopped: Callable[[], bool] = lambda: False, console: Console | None = None) -> bool:
    """Train until the budget is used up, continuing the run in `out` if there is one; True where it got there."""
    console = console or Console()
    clock = Clock(restore(trainer, out))
    while (used := budget.fraction(trainer.step, clock.seconds)) < 1 and not stopped():
        loss = trainer.advance(0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * used)))
        if not math.isfinite(loss):
            raise BadValue(f"the loss is no longer a number at step {trainer.step}: start again with a lower --lr")
        if trainer.step % REPORT == 0:
            console.print(f"step {trainer.step}, loss {float(loss):.4f}, {clock.seconds / 60:.1f} minutes", highlight=False)
        if clock.due("save", save_minutes):
            save(trainer, out, clock.seconds)
    save(trainer, out, clock.seconds)
    return used >= 1


def save(trainer: AutoencoderTrainer, out: Path, seconds: float) -> None:
    """Write what a run needs to go on, then the autoencoder as `emag.lab.train --autoencoder` reads it."""
    facts = {"step": trainer.step, "seconds": seconds, "settings": {**asdict(trainer.settings), "kept": trainer.kept}}
    folder.save_tensors(out / FILE, trainer.tensors(), {HEADER: json.dumps(facts)})
    folder.write_autoencoder(out, trainer.averaged())


def restore(trainer: AutoencoderTrainer, out: Path) -> float:
    """Continue where the run in `out` stopped; returns the seconds trained, 0 where there is none.

    Raises `BadValue` where the folder holds a run with other settings, or an autoencoder alone.
    """
    if not (out / FILE).is_file():
        if (out / folder.AUTOENCODER).exists():
            raise BadValue(f"{out} holds an autoencoder but no {FILE} to continue from; choose another folder")
        return 0.0
    try:
        with safe_open(out / FILE, "pt") as file:
            facts = json.loads((file.metadata() or {})[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise BadValue(f"{out / FILE} cannot be read: {folder.first_line(error)}") from error
    if facts["settings"] != {**asdict(trainer.settings), "kept": trainer.kept}:
        raise BadValue(f"{out} holds a run with {facts['settings']}; use the same options, or another folder")
    trainer.fill(tensors, facts["step"])
    return float(facts["seconds"])


def command(
    out: Annotated[Path, typer.Argument(help="Folder of the autoencoder; a run in it is continued.")],
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Minutes to train in all; 60 without --steps.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps to train in all.")] = None,
    kept: Annotated[Path | None, typer.Option("--decoder-of", help="Train only the decoder of this folder's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = Settings.batch_size,
    lr: Annotated[float, typer.Option(min=0.0, help="Highest learning rate.")] = Settings.lr,
    noise: Annotated[float, typer.Option(min=0.0, help="Largest noise on latents.")] = Settings.noise,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, scenes and noise.")] = Settings.seed,
    save_minutes: Annotated[float, typer.Option(min=0.0, help="Minutes between checkpoints; 0: every step.")] = 5.0,
) -> None:
    """Train a small autoencoder on scenes of the world of shapes, on a CPU. Stop it at any time; the same command continues.

    With --decoder-of, latents stay what they are, so that a network trained on them can be used with the new decoder.
    """
    with told_errors():
        settings = Settings(batch_size=batch_size, lr=lr, noise=noise, seed=seed)
        trainer = AutoencoderTrainer(settings, None if kept is None else folder.autoencoder(kept))
        budget = Budget(steps, 60.0 if steps is None and minutes is None else minutes)
        with stop_on_signals() as stopped:
            finished = train(trainer, out, budget, save_minutes, stopped)
    leave_unless(finished)
    found = quality(trainer.averaged())
    typer.echo(f"{out}: {found['decibels']:.1f} dB (least {found['least']:.1f}), {found['right']:.1%} right after decoding")


if __name__ == "__main__":
    typer.run(command)
