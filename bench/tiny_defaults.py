"""How the embedded model's defaults were chosen: Frechet distance and class accuracy of several guidances.

python bench/tiny_defaults.py --train train.parquet --test test.parquet --images 500

The judge is a small convolutional classifier trained here on the same data for a few epochs: rough, but the same for every
guidance, and all guidances share their seeds. The distance is taken between its 128 features on the generated images and
on the test set, so compare lines of one run with each other, never with published FIDs. The interval is of the difference
to the first line, from resampling the images.
"""

import io
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

import emag
from emag.columns import Column, run
from emag.sampling import Job, Settings

COLUMNS = ("scale=2.5", "none", "scale=2", "scale=3", "emag=1.25", "emag=1.5", "emag=2", "emag=3", "emag=2,layers=2-3",
           "emag=2,layers=1-3", "emag=1.5,variant=map", "emag=2,variant=map", "emag=2,beta_time=equal-time", "apg=4",
           "apg=6", "emag=2 apg=6", "cads emag=2")
STEPS, BATCH = 28, 50


class Judge(nn.Module):
    """A small classifier; `features` are what the distance is taken in."""

    def __init__(self, classes: int = 10):
        super().__init__()
        sizes = (3, 32, 64, 128)
        stages = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1),
                                nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)) for a, b in pairwise(sizes)]
        self.stages, self.head = nn.Sequential(*stages), nn.Linear(sizes[-1], classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.stages(x).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def dataset(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [n, 3, 32, 32] in [-1, 1] and labels."""
    table = pq.read_table(path).to_pydict()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table["image"]])
    return tensor(pixels), torch.tensor(table["label"])


def tensor(pixels: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def trained(images: torch.Tensor, labels: torch.Tensor, epochs: int) -> Judge:
    """A judge trained with flips, one-cycle learning rate, seed 0."""
    torch.manual_seed(0)
    judge, size = Judge(), 256
    optimizer = torch.optim.AdamW(judge.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * (len(images) // size))
    for _ in range(epochs):
        for index in torch.randperm(len(images))[: len(images) // size * size].view(-1, size):
            x = images[index]
            flip = torch.rand(size) < 0.5
            x[flip] = x[flip].flip(-1)
            loss = nn.functional.cross_entropy(judge(x), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


@torch.no_grad()
def judged(judge: Judge, images: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
    """Features [n, 128] in float64 and predicted classes."""
    features = torch.cat([judge.features(part) for part in images.split(500)])
    return features.double().numpy(), judge.head(features).argmax(1)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between two sets of features: |mean difference|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)."""
    first, second = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * cross)


def difference(features: np.ndarray, base: np.ndarray, reference: np.ndarray, times: int = 200) -> tuple[float, float]:
    """90 % interval of distance minus the base's, over resampled images: the same ones in both, so bias and luck cancel."""
    random = np.random.default_rng(0)
    picks = random.integers(len(features), size=(times, len(features)))
    found = [frechet(features[pick], reference) - frechet(base[pick], reference) for pick in picks]
    return float(np.quantile(found, 0.05)), float(np.quantile(found, 0.95))


def main(
    train: Annotated[Path, typer.Option(help="Training parquet (image, label).")],
    test: Annotated[Path, typer.Option(help="Test parquet.")],
    images: Annotated[int, typer.Option(help="Images per guidance, spread over the classes.")] = 500,
    epochs: int = 6,
    column: Annotated[list[str], typer.Option(help="Guidances, as in `emag compare`.")] = list(COLUMNS),  # noqa: B006
) -> None:
    """Print a line per guidance as it is done, and the table at the end."""
    judge = trained(*dataset(train), epochs)
    pixels, labels = dataset(test)
    reference, guessed = judged(judge, pixels)
    console = Console(width=150)
    console.print(f"judge: {(guessed == labels).float().mean():.1%} of the test set right")
    pipe = emag.load("tiny")
    pipe.set_progress_bar_config(disable=True)
    names = pipe.classes
    work = [Job(f"a photo of a {names[i % len(names)]}", None, 1000 + i) for i in range(images)]
    table = Table("guidance", "Frechet distance", "minus the first, 90 %", "class accuracy", "block evaluations", box=None)
    base = None
    for text in column:
        outcome = run(pipe, Column.parse(text), work, Settings(STEPS, 2.5), BATCH)
        features, found = judged(judge, tensor([np.asarray(image) for image in outcome.images]))
        base = features if base is None else base
        low, high = difference(features, base, reference)
        right = np.mean([names[int(c)] in job.prompt for c, job in zip(found, work)])
        evaluations = str(outcome.stats[0].evaluations) if outcome.stats else ""
        row = (text, f"{frechet(features, reference):.3f}", f"{low:+.3f} to {high:+.3f}", f"{right:.1%}", evaluations)
        table.add_row(*row)
        console.print("  ".join(row))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
