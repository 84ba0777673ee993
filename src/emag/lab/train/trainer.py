"""Rectified flow training of a small MMDiT: x_s = (1 - s) x0 + s eps, target v = eps - x0, timestep = 1000 s."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...errors import BadValue
from ...hosts.load import load
from ...models.pipeline import SmallPipeline
from ..labelled import CIFAR10, Images
from .optimizers import Optimizers
from .task import WORD_DIM, Pictures, Task


@dataclass(frozen=True)
class TrainSettings:
    """All that decides a training run, its data and length apart.

    world: what is drawn instead of pictures by class; then classes, size, scale and flip say nothing. scale: pixels in
    [-1, 1] are multiplied by it. drop: share of images trained with the empty prompt. flip: mirror half of the images. ema:
    decay of the averaged weights. warmup: steps of rising learning rate. muon: learning rate of Muon for the matrices inside
    the blocks; 0 leaves them to AdamW. words: a model whose words are taken and kept as they are, so that both networks
    can be called with the same conditions.
    """

    classes: tuple[str, ...] = CIFAR10
    size: int = 32
    layers: int = 8
    heads: int = 3
    patch: int = 4
    batch_size: int = 256
    lr: float = 1.5e-3
    seed: int = 0
    scale: float = 2.0
    drop: float = 0.1
    flip: bool = True
    ema: float = 0.999
    warmup: int = 200
    weight_decay: float = 0.01
    words: str | None = None
    world: str | None = None
    head_dim: int = 64
    muon: float = 0.0


WORLDS = {"shapes": TrainSettings(classes=(), size=16, layers=6, heads=4, head_dim=40, patch=2, batch_size=32, lr=1e-3,
                                  muon=2e-3, ema=0.9993, scale=1.0, flip=False, world="shapes")}
"""Settings of the models of worlds."""


def known_words(settings: TrainSettings, task: Task) -> Any:
    """New words to be trained, or those of another model, frozen. Raises `BadValue` where they do not fit."""
    own = task.words()
    if settings.words is None:
        return own
    known: Any = getattr(load(settings.words, device="cpu"), "text_encoder_3", None)
    if type(known) is not type(own) or known.facts != own.facts:
        raise BadValue(f"the words of {settings.words} are not those of {settings.world or ', '.join(settings.classes)}")
    return known.requires_grad_(False)


def network(settings: TrainSettings, channels: int = 3) -> SD3Transformer2DModel:
    """An untrained network of the size that `settings` ask for."""
    width = settings.heads * settings.head_dim
    return SD3Transformer2DModel(
        sample_size=settings.size, patch_size=settings.patch, in_channels=channels, out_channels=channels,
        num_layers=settings.layers, attention_head_dim=settings.head_dim, num_attention_heads=settings.heads,
        joint_attention_dim=WORD_DIM, caption_projection_dim=width, pooled_projection_dim=WORD_DIM,
        pos_embed_max_size=settings.size // settings.patch, dual_attention_layers=(), qk_norm="rms_norm")


class Trainer:
    """A network, its words, their averaged copy and the optimizers. What step k does depends on the seed and k alone.

    data: pictures by class, or another task.
    """

    def __init__(self, settings: TrainSettings, data: Images | Task, device: torch.device, dtype: torch.dtype):
        self.settings, self.device, self.dtype = settings, device, dtype
        self.task: Task = (Pictures(data, settings.classes, settings.scale, settings.flip) if isinstance(data, Images)
                           else data)
        torch.manual_seed(settings.seed)
        encoder = known_words(settings, self.task)
        self.model = torch.nn.ModuleDict({"network": network(settings, self.task.channels), "words": encoder}).to(device)
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizers = Optimizers(self.parameters, settings.lr, settings.muon, settings.weight_decay)
        self.step = 0

    @property
    def batch_size(self) -> int:
        """Images per step: as set, or all there are."""
        return min(self.settings.batch_size, len(self.task))

    @property
    def millions(self) -> float:
        """Trained parameters, in millions."""
        return sum(p.numel() for p in self.parameters.values()) / 1e6

    def advance(self, fraction: float) -> torch.Tensor:
        """One optimizer step, `fraction` in [0, 1] of the way through the run. Returns the loss, a scalar."""
        self.optimizers.start(self.rate(fraction))
        with self._attention():
            loss = self._loss(*self.batch())
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizers.step()
        self.step += 1
        self._update_average()
        return loss.detach()

    def rate(self, fraction: float) -> float:
        """Share of the highest learning rate: linear warmup, then a cosine down to 2 %."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
        return min(1.0, (self.step + 1) / self.settings.warmup) * (0.98 * cosine + 0.02)

    def batch(self) -> tuple[torch.Tensor, ...]:
        """x0 and eps [batch, channels, size, size], s [batch] and word ids [batch, words] of the current step."""
        settings, rng = self.settings, torch.Generator().manual_seed(_mixed(self.settings.seed, self.step))
        x0, ids = self.task.batch(self._pick(), rng)
        dropped = torch.rand(len(x0), generator=rng) < settings.drop
        ids = torch.where(dropped[:, None], self.task.empty, ids)
        s = torch.sigmoid(torch.randn(len(x0), generator=rng))
        eps = torch.randn(x0.shape, generator=rng)
        return tuple(t.to(self.device, non_blocking=True) for t in (x0, eps, s, ids))

    def _pick(self) -> torch.Tensor:
        """Indices of this step's images: a new order each epoch."""
        size = self.batch_size
        epoch, at = divmod(self.step, len(self.task) // size)
        rng = torch.Generator().manual_seed(_mixed(self.settings.seed, -1 - epoch))
        return torch.randperm(len(self.task), generator=rng)[at * size:(at + 1) * size]

    def _loss(self, x0: torch.Tensor, eps: torch.Tensor, s: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        mix = s.view(-1, 1, 1, 1)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            states, pooled = self.model["words"](ids)
            v = self.model["network"]((1 - mix) * x0 + mix * eps, states, pooled, s * 1000, return_dict=False)[0]
        return (v.float() - (eps - x0)).square().mean()

    def _attention(self) -> AbstractContextManager:
        # on a CPU the backward pass of the fused kernel is slower than plain matrix products at so few tokens
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.parameters.values()], 1 - decay)

    def averaged(self, part: str) -> dict[str, torch.Tensor]:
        """State of "network" or "words" with averaged weights."""
        state = {**self.model.state_dict(), **self.average}
        return {name.removeprefix(part + "."): value for name, value in state.items() if name.startswith(part + ".")}

    def pipeline(self) -> SmallPipeline:
        """A pipeline with the averaged weights as they are now."""
        own: dict[str, Any] = {"network": network(self.settings, self.task.channels), "words": self.task.words()}
        for part, module in own.items():
            module.load_state_dict(self.averaged(part))
        pipe = self.task.pipeline(own["network"].eval(), own["words"].eval()).to(self.device)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def _mixed(seed: int, number: int) -> int:
    """One seed from two numbers, different for nearby ones."""
    return (seed * 1_000_003 + number * 7_919 + 104_729) % 2**63
