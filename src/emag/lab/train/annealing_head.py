"""Train the head of annealing guidance for a model: python -m emag.lab.train.annealing_head OUT.safetensors --data FOLDER.

arXiv 2506.24108, by the words of a re-implementation: at a noised image the head gives w, and is asked for two things, by
shares of lambda: that u + w (c - u) says the noise that is there, and that c and u agree where the step of CFG++ leads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
import typer

from ...core import COND, UNCOND
from ...errors import BadValue, Unsupported
from ...files import check_file
from ...hosts.load import load
from ...hosts.own_loop import Loop, loop_model
from ...maths.predictions import Space, convert
from ...maths.vectors import per_sample
from ...models import folder
from ...models.classifier import SIZE
from ...models.tiny import TinyPipeline
from ...samplers import Path as Levels
from ...schedules.annealing import FEATURES, NORM_UNIT, evaluate, features
from ..labelled import CIFAR10
from .classifier import read
from .ending import told_errors
from .task import Pictures


class Predicting(Protocol):
    """What is guided: clean predictions on a path of levels, with gradients where x asks for them."""

    @property
    def path(self) -> Levels: ...
    @property
    def space(self) -> Space: ...

    def branches_at(self, x: torch.Tensor, alpha: float, sigma: float) -> Any:
        """"cond" and "uncond" by name."""


@dataclass(frozen=True)
class HeadSettings:
    """All that decides a training, its data apart.

    hidden, layers: of the head, the authors'. balance: decay of the average of the two losses' ratio, rho; an untested
    default, as are lr and batch_size. sampling_steps: levels of the runs the head is for.
    """

    hidden: int = 128
    layers: int = 3
    lr: float = 1e-3
    batch_size: int = 16
    balance: float = 0.99
    sampling_steps: int = 28
    seed: int = 0


class HeadTrainer:
    """A head in training. bias: what is added to its number, 1 as published; it begins at w = bias."""

    def __init__(self, settings: HeadSettings, bias: float = 1.0):
        self.settings, self.bias = settings, bias
        self.rng = torch.Generator().manual_seed(settings.seed)
        sizes = [FEATURES, *[settings.hidden] * (settings.layers + 1), 1]
        self.head = [self._layer(*pair, last=at == len(sizes) - 2) for at, pair in enumerate(pairwise(sizes))]
        self.optimizer = torch.optim.Adam([value for pair in self.head for value in pair], settings.lr)
        self.rho: float | None = None

    def _layer(self, into: int, out: int, last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        bound = 0.0 if last else into**-0.5  # the last one begins at 0
        weight, bias = (bound * (2 * torch.rand(*shape, generator=self.rng, dtype=torch.float64) - 1)
                        for shape in ((out, into), (out,)))
        return weight.requires_grad_(), bias.requires_grad_()

    def losses(self, model: Predicting, i: int, x0: torch.Tensor, noise: torch.Tensor,
               strength: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How far u + w (c - u) is from the noise, and c from u after CFG++'s step from level i: mean squares, [batch]."""
        if not model.path.fits("flow"):
            raise Unsupported("a head is trained on the time of a flow, and this path is none: use a flow model")
        (alpha, sigma), (after, rest) = model.path.at(i), model.path.at(i + 1)
        x = alpha * x0 + sigma * noise
        with torch.no_grad():
            cond, uncond = _noises(model, x, alpha, sigma)
        apart = cond - uncond
        w = self.scale(sigma, apart.flatten(1).norm(dim=1) / NORM_UNIT, strength)
        guided = uncond + per_sample(w.to(x.dtype), x) * apart
        there = after * (x - sigma * guided) / alpha + rest * uncond
        cond, uncond = _noises(model, there, after, rest)
        return (guided - noise).square().flatten(1).mean(1), (cond - uncond).square().flatten(1).mean(1)

    def scale(self, time: float, apart: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        """w of each sample, [batch] float64. apart: |c - u| / 5; strength: lambda, both [batch]."""
        inputs = torch.cat([features(time, one, float(lam)) for one, lam in zip(apart.split(1), strength)])
        return self.bias + evaluate(self.head, inputs)

    def advance(self, model: Predicting, x0: torch.Tensor) -> float:
        """One step of the optimizer on a level drawn between the first and the last; returns the loss."""
        first = int(model.path.alphas[0] == 0)  # at pure noise epsilon tells no image
        i = int(torch.randint(first, len(model.path) - 1, (), generator=self.rng))
        noise = torch.randn(x0.shape, generator=self.rng, dtype=x0.dtype)
        strength = torch.rand(len(x0), generator=self.rng)
        true, agree = self.losses(model, i, x0, noise, strength)
        ratio = float(true.detach().mean() / agree.detach().mean().clamp(min=1e-12))
        self.rho = ratio if self.rho is None else self.settings.balance * self.rho + (1 - self.settings.balance) * ratio
        loss = ((1 - strength) * true + strength * self.rho * agree).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def tensors(self) -> dict[str, torch.Tensor]:
        """The head as `emag.Annealing` reads it, fp32."""
        return {f"combined_head.{2 * at}.{part}": value.detach().float() for at, pair in enumerate(self.head)
                for part, value in zip(("weight", "bias"), pair)}


def _noises(model: Predicting, x: torch.Tensor, alpha: float, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Epsilon predictions c and u at x."""
    found = model.branches_at(x, alpha, sigma)
    cond, uncond = (convert(found[name], x, alpha, sigma, model.space, "epsilon") for name in (COND, UNCOND))
    return cond, uncond


def batches(pipe: Any, source: Path, settings: HeadSettings) -> Iterator[tuple[Predicting, torch.Tensor]]:
    """Pictures of a folder with the model under their classes as prompts, without end."""
    images, rng = read(source, "train"), torch.Generator().manual_seed(settings.seed)
    pictures = Pictures(images, CIFAR10, pipe.vae.config.scaling_factor, True)
    while True:
        pick = torch.randint(len(images), (min(settings.batch_size, len(images)),), generator=rng)
        prompts = [CIFAR10[int(images.labels[at])] for at in pick]
        model = loop_model(pipe, Loop(steps=settings.sampling_steps), prompts, [None] * len(prompts))
        yield model, pictures.batch(pick, rng)[0]


def command(
    out: Annotated[Path, typer.Argument(help="The safetensors file to write, for emag.Annealing(weights=...).")],
    source: Annotated[Path, typer.Option("--data", help="Folder with train*.parquet of CIFAR-10.")],
    model: Annotated[str, typer.Option(help="A model of its pictures: tiny, or a folder that the trainer wrote.")] = "tiny",
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimizer.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of weights, levels and noise.")] = 0,
) -> None:
    """Train the network that gives annealing guidance its scale, for a small model, on a CPU."""
    with told_errors():
        check_file(out)
        pipe, trainer = opened(model), HeadTrainer(HeadSettings(seed=seed))
        with typer.progressbar(zip(range(steps), batches(pipe, source, trainer.settings)), steps) as bar:
            losses = [trainer.advance(*given) for _, given in bar]
        folder.save_tensors(out, trainer.tensors())
    late = losses[-max(1, steps // 10):]
    typer.echo(f"{out}: {steps} steps, loss {sum(late) / len(late):.3f} in the last tenth")


def opened(model: str) -> Any:
    """The pipeline of a model of 32 x 32 pixels, its weights frozen. Raises `BadValue` for another one."""
    pipe: Any = load(model, device="cpu")
    if not isinstance(pipe, TinyPipeline) or pipe.transformer.config.sample_size != SIZE:
        raise BadValue(f"the pictures are of {SIZE} x {SIZE} pixels, and {model} is no model of these: name tiny, or a "
                       "folder that emag.lab.train wrote")
    pipe.transformer.requires_grad_(False)
    return pipe


if __name__ == "__main__":
    typer.run(command)
