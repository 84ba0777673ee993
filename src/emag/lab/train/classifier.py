"""Train the embedded classifier: python -m emag.lab.train.classifier OUT --data FOLDER."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ...errors import BadValue
from ...files import check_folder
from ...models import folder
from ...models.classifier import CARD, SIZE, WEIGHTS, Classifier, pixels
from .. import labelled
from ..labelled import CIFAR10, Images
from .ending import told_errors

COLUMNS = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TaskProgressColumn(),
           TextColumn("loss {task.fields[loss]:.3f}"), TimeRemainingColumn())
MARGIN = 2


@dataclass(frozen=True)
class ClassifierSettings:
    """All that decides a training run, its data apart.

    lr: highest learning rate, reached after `rise` of the steps on a straight line, then down to 0 on another.
    """

    epochs: int = 20
    widths: tuple[int, int, int] = (64, 192, 256)
    activation: str = "gelu"
    batch_size: int = 256
    lr: float = 0.25
    rise: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    smoothing: float = 0.2
    seed: int = 0


class Crops:
    """Batches with a random shift of up to 2 pixels; each image is mirrored in every other epoch."""

    def __init__(self, images: Images, settings: ClassifierSettings):
        padded = torch.nn.functional.pad(images.pixels.float(), (MARGIN,) * 4, mode="reflect").to(torch.uint8)
        self.views = padded.unfold(2, SIZE, 1).unfold(3, SIZE, 1)  # [n, 3, shifts, shifts, 32, 32], not copied
        self.labels, self.settings = images.labels, settings
        self.rng = torch.Generator().manual_seed(settings.seed)
        self.mirrored = torch.rand(len(images), generator=self.rng) < 0.5

    def epoch(self) -> Any:
        """Pairs of pixels [batch, 3, 32, 32] in [-1, 1] and labels [batch], in a new order; full batches only."""
        count, size = len(self.labels), min(self.settings.batch_size, len(self.labels))
        order = torch.randperm(count, generator=self.rng)
        for rows in order[:count - count % size].split(size):
            down, right = torch.randint(2 * MARGIN + 1, (2, size), generator=self.rng)
            crops = self.views[rows, :, down, right]
            flipped = torch.where(self.mirrored[rows, None, None, None], crops.flip(-1), crops)
            yield pixels(flipped), self.labels[rows]
        self.mirrored = ~self.mirrored


def train(images: Images, classes: int, settings: ClassifierSettings, console: Console | None = None) -> Classifier:
    """A classifier trained on `images` [n, 3, 32, 32] with SGD, label smoothing and bf16 autocast; decided by the seed."""
    torch.manual_seed(settings.seed)
    model = Classifier(classes, settings.widths, settings.activation).to(memory_format=torch.channels_last)
    model.set_whitening(pixels(images.pixels[:5000]))
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, settings.lr, settings.momentum, nesterov=True, weight_decay=settings.weight_decay)
    crops, steps = Crops(images, settings), settings.epochs * max(1, len(images) // settings.batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps, settings.rise))
    with Progress(*COLUMNS, console=console or Console()) as progress:
        task = progress.add_task("", total=steps, epoch=0, loss=float("nan"))
        for epoch in range(settings.epochs):
            for x, labels in crops.epoch():
                loss = _step(model, optimizer, x, labels, settings.smoothing)
                rate.step()
                progress.update(task, advance=1, epoch=epoch, loss=loss)
    return model.eval()


def _rate(done: float, rise: float) -> float:
    return max(0.0, min(done / rise, (1 - done) / (1 - rise)))


def _step(model: Classifier, optimizer: torch.optim.Optimizer, x: torch.Tensor, labels: torch.Tensor,
          smoothing: float) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    loss = torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def recognised(model: Classifier, images: Images) -> torch.Tensor:
    """1 for each image whose class is recognised, as metrics ask for it, else 0: fp64 [n]."""
    parts = images.pixels.permute(0, 2, 3, 1).split(500)
    found = torch.cat([model.outputs(part.numpy()).logits.argmax(1) for part in parts])
    return (found == images.labels).double()


def save(model: Classifier, out: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Write fp16 weights and the card, with their size in it; each file appears whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    folder.save_tensors(out / WEIGHTS, {name: value.half() if value.is_floating_point() else value
                                        for name, value in model.state_dict().items()})
    full = {**card, "bytes": (out / WEIGHTS).stat().st_size}
    folder.save_json(out / CARD, full)
    return full


def read(source: Path, split: str, size: int = SIZE, classes: int = len(CIFAR10)) -> Images:
    """The `split` of a folder with train*.parquet and test*.parquet, at `size` pixels. Raises `BadValue` without one."""
    files = sorted(source.expanduser().glob(f"{split}*.parquet"))
    if not files:
        raise BadValue(f"no {split}*.parquet in {source}")
    parts = [labelled.read(str(file), size, classes) for file in files]
    return Images(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))


def run(source: Path, out: Path, settings: ClassifierSettings) -> dict[str, Any]:
    """Train, round the weights to fp16, measure the test accuracy of those, save; returns the card."""
    images, test = read(source, "train"), read(source, "test")
    start, used = time.monotonic(), time.process_time()
    model = train(images, len(CIFAR10), settings).half().float()
    times = {"minutes": round((time.monotonic() - start) / 60, 1),
             "cpu_minutes": round((time.process_time() - used) / 60, 1), "threads": torch.get_num_threads()}
    right = recognised(model, test)
    each = [right[test.labels == label] for label in range(len(CIFAR10))]
    card = {"classes": list(CIFAR10), "test_accuracy": round(float(right.mean()), 4),
            "class_accuracy": [round(float(one.mean()), 4) if len(one) else None for one in each],
            "images": len(images), "test_images": len(test), **asdict(settings), **times}
    return save(model, out, card)


def command(
    out: Annotated[Path, typer.Argument(help="Folder for weights and card.")],
    source: Annotated[Path, typer.Option("--data", help="Folder with train*.parquet and test*.parquet.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = ClassifierSettings.epochs,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of weights, order and crops.")]
    = ClassifierSettings.seed,
) -> None:
    """Train the CIFAR-10 classifier that measures features and class accuracy, on a CPU."""
    with told_errors():
        check_folder(out)
        card = run(source, out, ClassifierSettings(epochs=epochs, seed=seed))
    typer.echo(f"{out}: test accuracy {card['test_accuracy']:.2%}, {card['bytes'] / 1e6:.1f} MB, {card['minutes']} minutes, "
               f"{card['cpu_minutes']} of one core")


if __name__ == "__main__":
    typer.run(command)
