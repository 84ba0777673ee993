"""The training of a baked adapter: what step k does depends on the seed and k alone."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...engine.network import Network
from ...objectives import distillation_loss
from ..train.optimizers import Optimizers
from .adapter import NAME, adapter_at, add_adapter
from .lessons import Lessons
from .teacher import predicted


@dataclass(frozen=True)
class BakeSettings:
    """What decides a training, its lessons apart. rows: (image, step) pairs of one training step. warmup: share of it."""

    rank: int = 16
    iterations: int = 2000
    rows: int = 32
    lr: float = 1e-3
    seed: int = 0
    warmup: float = 0.1


class Baker:
    """A network with a fresh adapter, its optimizer, and the lessons it learns from; the rest of the network is frozen."""

    def __init__(self, network: Network, lessons: Lessons, settings: BakeSettings):
        self.network, self.lessons, self.settings = network, lessons, settings
        self.parameters = add_adapter(network, settings.rank, settings.seed)
        self.optimizers = Optimizers(self.parameters, settings.lr, 0.0, 0.0)
        self.step = 0
        network.module.eval()  # no dropout: the teacher had none

    @property
    def batch_size(self) -> int:
        """Rows of one step: as set, or all there are of one share."""
        return min(self.settings.rows, *map(len, self.lessons.groups.values()))

    @property
    def device(self) -> torch.device:
        """Where the adapter is."""
        return next(iter(self.parameters.values())).device

    def advance(self) -> torch.Tensor:
        """One optimizer step; the loss, a scalar."""
        self.optimizers.start(self.rate())
        share, pick = self._pick()
        inputs, guided = self.lessons.rows(pick, self.device)
        with adapter_at(self.network, share):
            loss = distillation_loss(predicted(self.network, inputs, guided), guided)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizers.step()
        self.step += 1
        return loss.detach()

    def rate(self) -> float:
        """Share of the highest learning rate: linear warm-up and a cosine, as in adapter guidance distillation."""
        done, warm = self.step / self.settings.iterations, self.settings.warmup
        return min(1.0, (self.step + 1) / max(1.0, warm * self.settings.iterations)) * 0.5 * (1 + math.cos(math.pi * done))

    def _pick(self) -> tuple[float, torch.Tensor]:
        """The share of the guidance that this step learns, in turn, and rows of it: a new order each time round."""
        turn, at = divmod(self.step, len(self.lessons.groups))
        share, rows = list(self.lessons.groups.items())[at]
        epoch, at = divmod(turn, len(rows) // self.batch_size)
        rng = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        return share, rows[torch.randperm(len(rows), generator=rng)[at * self.batch_size:(at + 1) * self.batch_size]]

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that a training needs to go on."""
        return self.optimizers.training()

    def fill(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Go on where `tensors` were saved, after `step` steps."""
        self.optimizers.resume(tensors, step)
        self.step = step

    def facts(self) -> dict[str, Any]:
        """Settings as plain data."""
        return asdict(self.settings)


@torch.no_grad()
def errors_of(network: Network, lessons: Lessons, device: torch.device, size: int = 64, plain: bool = False) -> torch.Tensor:
    """Mean square error to the guided predictions, [images], over all steps of each. plain: without the adapter."""
    found = torch.zeros(len(lessons))
    for share, rows in lessons.groups.items():
        with adapter_at(network, 1.0 if plain else share):
            for part in rows.split(size):
                inputs, guided = lessons.rows(part, device)
                found[part] = (predicted(network, inputs, guided) - guided).square().flatten(1).mean(1).cpu()
    return found.view(lessons.images, lessons.steps).mean(1)


@dataclass(frozen=True)
class HeldOut:
    """Held-out error: mean squares over images that were not learnt from.

    before, after: without the adapter and with it. left: the share of the first that is left, from low to high its 95 %
    interval (bootstrap over images).
    """

    images: int
    before: float
    after: float
    left: float
    low: float
    high: float


def held_out(network: Network, lessons: Lessons, device: torch.device, draws: int = 2000) -> HeldOut:
    """The error of the network with its baked adapter on and off, on `lessons` that it did not learn from."""
    module: Any = network.module
    module.disable_adapters()
    try:
        before = errors_of(network, lessons, device, plain=True)
    finally:
        module.enable_adapters()
        module.set_adapter(NAME)
    after = errors_of(network, lessons, device)
    rng = torch.Generator().manual_seed(0)
    pick = torch.randint(len(before), (draws, len(before)), generator=rng)
    ratios = after[pick].sum(1) / before[pick].sum(1)
    low, high = ratios.quantile(torch.tensor([0.025, 0.975])).tolist()
    return HeldOut(len(before), float(before.mean()), float(after.mean()), float(after.sum() / before.sum()), low, high)


def parts_of(count: int, size: int) -> Sequence[range]:
    """Numbers 0 to count - 1 in groups of at most `size`."""
    return [range(start, min(count, start + size)) for start in range(0, count, size)]
