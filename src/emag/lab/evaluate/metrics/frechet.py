"""Frechet distance of Gaussians fitted to features: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)."""

from dataclasses import dataclass
from typing import Any

import torch

from ....errors import BadValue


@dataclass(frozen=True)
class Moments:
    """mean [d], covariance [d, d] (divided by count - 1), fp64; count is None where a file does not say it."""

    mean: torch.Tensor
    cov: torch.Tensor
    count: int | None = None


def moments(features: Any, weights: Any = None, device: str | torch.device = "cpu") -> Moments:
    """Mean and covariance of features [n, d]; `weights` [n]: how often each row is there. Raises `BadValue` below 2 rows."""
    x = torch.as_tensor(features, device=device).double()
    w = torch.ones(len(x), device=x.device, dtype=x.dtype) if weights is None else torch.as_tensor(weights).to(x)
    count = float(w.sum())
    if x.ndim != 2 or count < 2:
        raise BadValue(f"a covariance needs features [n, d] of two images or more, got {list(x.shape)}")
    mean = w @ x / count
    centred = (x - mean) * w.sqrt()[:, None]
    return Moments(mean, centred.T @ centred / (count - 1), round(count))


def distance(a: Moments, b: Moments) -> float:
    """Frechet distance of two sets of moments on one device; covariances may be singular. Never negative."""
    return FrechetTo(a).to(b)


class FrechetTo:
    """Distance to one fixed set of moments, whose root is taken once."""

    def __init__(self, reference: Moments):
        self.reference, self.root = reference, root(reference.cov)

    def to(self, other: Moments) -> float:
        """The distance of `other` [d]. Raises `BadValue` where the widths differ."""
        mine = self.reference
        if mine.mean.shape != other.mean.shape:
            raise BadValue(f"features of {len(mine.mean)} and of {len(other.mean)} channels have no distance: they come "
                           "from two extractors")
        inner = self.root @ other.cov.to(self.root) @ self.root
        shared = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
        shift = (mine.mean - other.mean.to(mine.mean)).square().sum()
        return max(0.0, float(shift + mine.cov.trace() + other.cov.trace().to(shift) - 2 * shared))


def root(cov: torch.Tensor) -> torch.Tensor:
    """The symmetric root of a positive semidefinite matrix [d, d]; what is below the rounding of its eigenvalues is 0."""
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    noise = len(cov) * torch.finfo(cov.dtype).eps * values.abs().max()
    return (vectors * torch.where(values > noise, values, 0).sqrt()) @ vectors.T
