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
from ...models.tiny import TinyPipeline
from ...models.words import WordEncoder, vocabulary
from .data import CIFAR10, Images

HEAD_DIM, WORD_DIM, WORDS = 64, 64, 8


@dataclass(frozen=True)
class Settings:
    """All that decides a training run, its data and length apart.

    scale: pixels in [-1, 1] are multiplied by it. drop: share of images trained with the empty prompt. flip: mirror
    half of the images. ema: decay of the averaged weights. warmup: steps of rising learning rate. words: a model whose
    word embedding is taken and kept as it is, so that both networks can be called with the same conditions.
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


def untrained_words(settings: Settings) -> WordEncoder:
    """New words, to be trained or filled."""
    return WordEncoder(vocabulary(settings.classes), settings.classes, WORDS, WORD_DIM)


def words(settings: Settings) -> WordEncoder:
    """New words to be trained, or those of another model, frozen. Raises `BadValue` where they do not fit."""
    own = untrained_words(settings)
    if settings.words is None:
        return own
    known = getattr(load(settings.words, device="cpu"), "text_encoder_3", None)
    if not isinstance(known, WordEncoder) or known.facts != own.facts:
        raise BadValue(f"the words of {settings.words} are not those of {', '.join(settings.classes)}")
    return known.requires_grad_(False)


def network(settings: Settings) -> SD3Transformer2DModel:
    """An untrained network of the size that `settings` ask for."""
    width = settings.heads * HEAD_DIM
    return SD3Transformer2DModel(
        sample_size=settings.size, patch_size=settings.patch, in_channels=3, out_channels=3, num_layers=settings.layers,
        attention_head_dim=HEAD_DIM, num_attention_heads=settings.heads, joint_attention_dim=WORD_DIM,
        caption_projection_dim=width, pooled_projection_dim=WORD_DIM, pos_embed_max_size=settings.size // settings.patch,
        dual_attention_layers=(), qk_norm="rms_norm")


class Trainer:
    """A network, its words, their averaged copy and the optimizer. What step k does depends on the seed and k alone."""

    def __init__(self, settings: Settings, images: Images, device: torch.device, dtype: torch.dtype):
        self.settings, self.images, self.device, self.dtype = settings, images, device, dtype
        torch.manual_seed(settings.seed)
        encoder = words(settings)
        self.model = torch.nn.ModuleDict({"network": network(settings), "words": encoder}).to(device)
        self.captions = encoder.ids([*settings.classes, None]).to(device)  # the last row is the empty prompt
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), settings.lr, betas=(0.9, 0.99),
                                           weight_decay=settings.weight_decay, fused=True)
        self.step = 0

    @property
    def batch_size(self) -> int:
        """Images per step: as set, or all there are."""
        return min(self.settings.batch_size, len(self.images))

    @property
    def millions(self) -> float:
        """Trained parameters, in millions."""
        return sum(p.numel() for p in self.parameters.values()) / 1e6

    def advance(self, fraction: float) -> torch.Tensor:
        """One optimizer step, `fraction` in [0, 1] of the way through the run. Returns the loss, a scalar."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(fraction)
        self.optimizer.zero_grad(set_to_none=True)
        with self._attention():
            loss = self._loss(*self.batch())
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return loss.detach()

    def rate(self, fraction: float) -> float:
        """Learning rate: linear warmup, then a cosine down to 2 %."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
        return self.settings.lr * min(1.0, (self.step + 1) / self.settings.warmup) * (0.98 * cosine + 0.02)

    def batch(self) -> tuple[torch.Tensor, ...]:
        """x0 and eps [batch, 3, size, size], s [batch] and word ids [batch, words] of the current step."""
        settings, rng = self.settings, torch.Generator().manual_seed(_mixed(self.settings.seed, self.step))
        pick = self._pick()
        pixels = self.images.pixels[pick].float() / 127.5 - 1
        if settings.flip:
            mirrored = torch.rand(len(pick), generator=rng) < 0.5
            pixels[mirrored] = pixels[mirrored].flip(-1)
        labels = self.images.labels[pick].clone()
        labels[torch.rand(len(pick), generator=rng) < settings.drop] = len(settings.classes)
        s = torch.sigmoid(torch.randn(len(pick), generator=rng))
        eps = torch.randn(pixels.shape, generator=rng)
        moved = [t.to(self.device, non_blocking=True) for t in (pixels * settings.scale, eps, s, labels)]
        return (*moved[:3], self.captions[moved[3]])

    def _pick(self) -> torch.Tensor:
        """Indices of this step's images: a new order each epoch."""
        size = self.batch_size
        epoch, at = divmod(self.step, len(self.images) // size)
        rng = torch.Generator().manual_seed(_mixed(self.settings.seed, -1 - epoch))
        return torch.randperm(len(self.images), generator=rng)[at * size:(at + 1) * size]

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

    def pipeline(self) -> TinyPipeline:
        """A pipeline with the averaged weights as they are now."""
        own: dict[str, Any] = {"network": network(self.settings), "words": untrained_words(self.settings)}
        for part, module in own.items():
            module.load_state_dict(self.averaged(part))
        pipe = TinyPipeline.build(own["network"].eval(), own["words"].eval(), self.settings.scale).to(self.device)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def _mixed(seed: int, number: int) -> int:
    """One seed from two numbers, different for nearby ones."""
    return (seed * 1_000_003 + number * 7_919 + 104_729) % 2**63
