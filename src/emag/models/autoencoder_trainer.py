"""Training of the autoencoder: what step k does depends on the seed and k alone."""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from .optimizers import Optimizers
from .patches import PatchAutoencoder
from .world import pictures

WHITENED, PART = 2048, 128
"""Scenes whose latents are made white, and how many are encoded at once."""


@dataclass(frozen=True)
class Settings:
    """noise: largest standard deviation of the noise that the decoder learns to bear; ema: decay of the average."""

    batch_size: int = 16
    lr: float = 2e-3
    noise: float = 0.25
    seed: int = 0
    ema: float = 0.998
    warmup: int = 100
    weight_decay: float = 1e-3


class AutoencoderTrainer:
    """An autoencoder, its averaged copy and its optimizer.

    kept: a trained autoencoder, whose decoder is trained further while its encoder stays as it is; None trains both anew,
    with latents brought to unit variance on the way and made white at the end.
    """

    def __init__(self, settings: Settings, kept: PatchAutoencoder | None = None):
        torch.manual_seed(settings.seed)
        self.settings, self.kept = settings, kept is not None
        self.model = (PatchAutoencoder() if kept is None else copy.deepcopy(kept)).to(memory_format=torch.channels_last)
        self.unit = torch.nn.BatchNorm2d(self.model.config.latent_channels, affine=False, momentum=0.01)
        trained = ("decoder",) if self.kept else ("encoder", "decoder")
        self.parameters = {name: p for name, p in self.model.named_parameters() if name.split(".")[0] in trained}
        for p in self.parameters.values():
            p.requires_grad_()
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizers = Optimizers(self.parameters, settings.lr, 0.0, settings.weight_decay)
        self.step = 0

    def advance(self, share: float) -> torch.Tensor:
        """One step at a share of the highest learning rate. Returns the loss: mean |d| + 4 d^2 of pixels in [-1, 1]."""
        settings = self.settings
        rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.step)
        pixels, _ = pictures(np.random.default_rng([settings.seed, 1, self.step]), settings.batch_size)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        self.optimizers.start(share * min(1.0, (self.step + 1) / settings.warmup))
        z = self._latents(pixels)
        level = settings.noise * torch.rand(len(z), 1, 1, 1, generator=rng)
        away = self._decoded(z + level * torch.randn(z.shape, generator=rng)) - pixels
        loss = away.abs().mean() + 4 * away.square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizers.step()
        self.step += 1
        self._update_average()
        return loss.detach()

    def _latents(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(not self.kept):
            raw = self.model.encoder(pixels)
        return self.model.white(raw.float()) if self.kept else self.unit(raw.float())

    def _decoded(self, z: torch.Tensor) -> torch.Tensor:
        z = self.model.colour(z) if self.kept else z
        with torch.autocast("cpu", torch.bfloat16):
            return self.model.decoder(z).float()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.parameters.values()], 1 - decay)

    @torch.no_grad()
    def averaged(self) -> PatchAutoencoder:
        """The autoencoder with averaged weights and white latents."""
        model = copy.deepcopy(self.model)
        model.load_state_dict({**self.model.state_dict(), **self.average})
        model.eval()
        if not self.kept:
            unit = copy.deepcopy(self.unit).eval()
            pixels, _ = pictures(np.random.default_rng([self.settings.seed, 2]), WHITENED)
            model.set_whitening(torch.cat([model.encoder(part) for part in pixels.split(PART)]),
                                unit.running_mean, (unit.running_var + unit.eps).rsqrt())
        return model

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that a run needs to go on."""
        whole = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        unit = {f"unit/{name}": value for name, value in self.unit.state_dict().items()}
        return whole | unit | {f"average/{name}": p for name, p in self.average.items()} | self.optimizers.tensors()

    @torch.no_grad()
    def fill(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Go on where `tensors` were saved, after `step` steps."""
        for start, module in (("model/", self.model), ("unit/", self.unit)):
            module.load_state_dict({name.removeprefix(start): value for name, value in tensors.items()
                                    if name.startswith(start)})
        for name, value in self.average.items():
            value.copy_(tensors[f"average/{name}"])
        self.optimizers.fill(tensors, step)
        self.step = step


@torch.no_grad()
def quality(model: PatchAutoencoder, count: int = 512, seed: int = 0) -> dict[str, float]:
    """Of `count` scenes decoded again: mean and least signal-to-noise ratio in dB, and the share that is judged right."""
    from ..worlds.shapes.verdict import judge

    pixels, prompts = pictures(np.random.default_rng([seed, 3]), count)
    again = torch.cat([model.decode(model.encode(part))[0] for part in pixels.split(PART)]).clamp(-1, 1)
    decibels = -10 * ((again - pixels) / 2).square().mean((1, 2, 3)).log10()
    verdicts = judge((again / 2 + 0.5).permute(0, 2, 3, 1).numpy(), prompts)
    right = float(np.mean([one.right for one in verdicts]))
    return {"decibels": float(decibels.mean()), "least": float(decibels.min()), "right": right}
