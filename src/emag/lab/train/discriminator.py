"""Train a judge of single natural pictures: python -m emag.lab.train.discriminator OUT --data FOLDER --plain RUN.

It learns to tell pictures that a model draws without guidance from real ones. What a model gets wrong in general, a guidance
may mend or worsen: the logit that a guided picture is real says which, picture by picture.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open

from ...errors import BadValue
from ...files import check_folder, parsed
from ...models import folder
from ...models.classifier import pixels
from ...models.discriminator import CARD, WEIGHTS, Discriminator, Learned
from .ending import leave_unless, told_errors
from .optimizers import Optimizers
from .progress import stop_on_signals
from .sides import Sides, sides

FILE, HEADER = "checkpoint.safetensors", "emag_training"
COLUMNS = (TextColumn("step {task.completed}"), BarColumn(), TaskProgressColumn(),
           TextColumn("loss {task.fields[loss]:.3f}"), TimeRemainingColumn())
MARGIN, SAVE = 2, 200
"""Pixels of the largest shift; steps between checkpoints."""


@dataclass(frozen=True)
class DiscriminatorSettings:
    """All that decides a training run, its data apart. batch_size: of each side. smoothing: how far from 0 and 1 its targets
    are, so that logits stay small. lr: highest rate, reached after `warmup` steps, then down to 0 along a cosine."""

    steps: int = 1500
    widths: tuple[int, ...] = (32, 64, 64, 64)
    batch_size: int = 64
    lr: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.05
    smoothing: float = 0.05
    seed: int = 0


class Training:
    """A discriminator in the making. Step i draws what it needs from the seed and i alone, so a run goes on where it was."""

    def __init__(self, sides: Sides, settings: DiscriminatorSettings):
        torch.manual_seed(settings.seed)
        self.sides, self.settings, self.step = sides, settings, 0
        self.model = Discriminator(settings.widths).to(memory_format=torch.channels_last)
        self.parameters = dict(self.model.named_parameters())
        self.optimizers = Optimizers(self.parameters, settings.lr, 0.0, settings.weight_decay)

    def advance(self) -> float:
        """One step; returns its loss."""
        torch.manual_seed(self._seed() + 1)  # of the dropout
        images, wanted = self.batch()
        self.optimizers.start(_rate(self.step, self.settings))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(self.model.train()(pixels(images)), wanted)
        loss.backward()
        self.optimizers.step()
        self.step += 1
        return float(loss.detach())

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 images of both sides, mirrored and shifted at random, and the targets: near 1 if real, near 0 if plain."""
        rng, size = torch.Generator().manual_seed(self._seed()), self.settings.batch_size
        drawn = [side[torch.randint(len(side), (size,), generator=rng)] for side in (self.sides.real, self.sides.plain)]
        wanted = torch.tensor([1.0, 0.0]).repeat_interleave(size).clamp(self.settings.smoothing, 1 - self.settings.smoothing)
        return _moved(torch.cat(drawn), rng), wanted

    def _seed(self) -> int:
        return 2 * (self.settings.seed * 1_000_003 + self.step) % 2**63

    def fill(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Go on after `step` steps from what `tensors` saved."""
        self.optimizers.resume(tensors, step)
        self.step = step

    def tensors(self) -> dict[str, torch.Tensor]:
        """What `fill` reads."""
        return self.optimizers.training()


def _moved(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """uint8 images [n, 3, s, s], half of them mirrored, each shifted by up to `MARGIN` pixels."""
    count, size = len(images), images.shape[-1]
    wide = torch.nn.functional.pad(images.float(), (MARGIN,) * 4, mode="reflect").to(torch.uint8)
    down, right = torch.randint(2 * MARGIN + 1, (2, count), generator=rng)
    crops = wide.unfold(2, size, 1).unfold(3, size, 1)[torch.arange(count), :, down, right]
    mirrored = torch.rand(count, generator=rng) < 0.5
    return torch.where(mirrored[:, None, None, None], crops.flip(-1), crops)


def _rate(step: int, settings: DiscriminatorSettings) -> float:
    return min(1.0, (step + 1) / settings.warmup) * (1 + cos(pi * step / settings.steps)) / 2


def train(training: Training, out: Path, facts: dict[str, Any], stopped: Callable[[], bool] = lambda: False,
          console: Console | None = None) -> bool:
    """Train to the last step, from where the checkpoint in `out` stopped; True where it got there.

    facts: what was learned from, which a checkpoint must agree with. Raises `BadValue` where it does not.
    """
    known = json.loads(json.dumps({"settings": asdict(training.settings), **facts}))
    restore(training, out, known)
    with Progress(*COLUMNS, console=console or Console()) as progress:
        bar = progress.add_task("", total=training.settings.steps, completed=training.step, loss=float("nan"))
        while training.step < training.settings.steps and not stopped():
            progress.update(bar, loss=training.advance(), completed=training.step)
            if training.step % SAVE == 0:
                _save(training, out, known)
    _save(training, out, known)
    return training.step >= training.settings.steps


def _save(training: Training, out: Path, known: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    folder.save_tensors(out / FILE, training.tensors(), {HEADER: json.dumps({"step": training.step, "known": known})})


def restore(training: Training, out: Path, known: dict[str, Any]) -> None:
    """Go on from the checkpoint in `out`, if there is one. Raises `BadValue` where it is damaged, or of another run."""
    if not (out / FILE).is_file():
        if (out / WEIGHTS).exists():
            raise BadValue(f"{out} holds a discriminator but no {FILE} to continue from; choose another folder")
        return
    try:
        with safe_open(out / FILE, "pt") as file:
            facts = parsed((file.metadata() or {})[HEADER])
            before, step = dict(facts["known"]), int(facts["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise BadValue(f"{out / FILE} is no checkpoint that can be read: {folder.first_line(error)}") from error
    changed = [name for name in known if before.get(name) != known[name]]
    if changed:
        raise BadValue(f"{out} holds a run with other {', '.join(changed)}; use the same options, or another folder")
    training.fill(tensors, step)


def finish(training: Training, out: Path, learned: Learned) -> dict[str, Any]:
    """Round the weights to fp16, measure those on what was held out, write them and the card; returns the card."""
    model = training.model.eval().half().float()
    real, plain = (torch.cat([model.logits(part) for part in side.split(500)])
                   for side in (training.sides.held_real, training.sides.held_plain))
    # of a real and a plain picture, how often the real one has the higher logit; and how often the sign of a logit is right
    order = (real[:, None] > plain).double().mean() + (real[:, None] == plain).double().mean() / 2
    accuracy = ((real > 0).double().mean() + (plain < 0).double().mean()) / 2
    card = {"learned": asdict(learned), "settings": asdict(training.settings), "held_out": [len(real), len(plain)],
            "pairs": round(float(order), 4), "accuracy": round(float(accuracy), 4),
            "logits": [round(float(side.mean()), 3) for side in (real, plain)]}
    folder.save_tensors(out / WEIGHTS, {name: value.half() for name, value in model.state_dict().items()})
    folder.save_json(out / CARD, card)
    return card


def command(
    out: Annotated[Path, typer.Argument(help="Folder for weights and card; a run in it is continued.")],
    source: Annotated[Path, typer.Option("--data", help="Folder with train*.parquet and test*.parquet of real pictures.")],
    plain: Annotated[str, typer.Option(help="Run folder with a recipe without guidance, of a seed that is not judged.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps to train in all.")] = DiscriminatorSettings.steps,
    jpeg: Annotated[int, typer.Option(min=0, max=95, help="JPEG quality of the real pictures as stored; 0: none.")] = 75,
    seed: Annotated[int, typer.Option(min=0, max=2**40, help="Seed of weights and order.")] = DiscriminatorSettings.seed,
) -> None:
    """Train the discriminator that judges single natural pictures, on a CPU. Stopped, the same command goes on."""
    with told_errors():
        check_folder(out)
        learned, both = sides(source, plain, jpeg)
        training = Training(both, DiscriminatorSettings(steps=steps, seed=seed))
        with stop_on_signals() as stopped:
            finished = train(training, out, asdict(learned), stopped)
        leave_unless(finished)
        card = finish(training, out, learned)
    typer.echo(f"{out}: tells {card['pairs']:.2%} of held-out pairs, {card['accuracy']:.2%} of held-out pictures")


if __name__ == "__main__":
    typer.run(command)
