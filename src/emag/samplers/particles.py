"""Weighted particles: what their weights are made of, how many they are worth, and how they are resampled."""

from collections.abc import Sequence

import torch


def squares(noises: Sequence[torch.Tensor], powers: Sequence[float]) -> torch.Tensor:
    """sum b |e_b|^2 per sample, [batch] float64, for noise predictions e_b [batch, ...] and exponents b."""
    wide = [noise.double().flatten(1) for noise in noises]
    return torch.stack([b * noise.square().sum(1) for b, noise in zip(powers, wide)]).sum(0)


def pairs(noises: Sequence[torch.Tensor], powers: Sequence[float]) -> torch.Tensor:
    """sum over pairs b b' |e_b - e_b'|^2 per sample, [batch] float64: B sum b |e_b|^2 - |sum b e_b|^2, B the sum of b.

    Exactly 0 where all predictions are equal.
    """
    wide = [noise.double().flatten(1) for noise in noises]
    total = torch.zeros(len(wide[0]), dtype=torch.float64, device=wide[0].device)
    for i, (b, noise) in enumerate(zip(powers, wide)):
        for c, other in zip(powers[:i], wide[:i]):
            total = total + b * c * (noise - other).square().sum(1)
    return total


def effective_size(log_weights: torch.Tensor) -> torch.Tensor:
    """Effective sample size (sum w)^2 / sum w^2 over the last dimension, from 1 to n. log_weights: [..., n]."""
    return 1 / log_weights.double().softmax(-1).square().sum(-1)


def resample(log_weights: torch.Tensor, uniform: torch.Tensor | torch.Generator, floor: float = 0.0) -> torch.Tensor:
    """Systematic resampling: indices [..., n] of the particles that go on, in rising order, for log_weights [..., n].

    Particle i goes on n w_i times, rounded up or down, and once where all weights are equal. uniform: one number in [0, 1]
    per group, [...], or a generator to draw it from. floor: least weight of a particle, before a last normalisation.
    """
    n = log_weights.shape[-1]
    if isinstance(uniform, torch.Generator):
        uniform = torch.rand(log_weights.shape[:-1], generator=uniform, dtype=torch.float64, device=log_weights.device)
    weights = log_weights.double().softmax(-1).clamp(min=floor)
    bounds = (weights / weights.sum(-1, keepdim=True)).cumsum(-1)
    # off the ends, where rounding of the bounds could give a particle twice
    shift = uniform.double().clamp(1e-6, 1 - 1e-6)[..., None]
    points = (torch.arange(n, device=log_weights.device) + shift) / n
    return torch.searchsorted(bounds, points, right=True).clamp(max=n - 1)
