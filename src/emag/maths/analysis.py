"""What classifier-free guidance does to Gaussian data, in three parts. A diagnostic: no network is needed."""

from dataclasses import dataclass

import torch

from ..errors import BadValue

Gaussian = tuple[torch.Tensor, torch.Tensor]
"""Mean [d] and covariance [d, d] of a set of clean samples."""


@dataclass(frozen=True)
class Split:
    """The guidance direction D_cond - D_uncond in x0, in three parts of shape [batch, d].

    mean_shift: towards the class mean, whatever x is. positive: along directions in which the class varies more than
    the rest. negative: along those in which it varies less.
    """

    mean_shift: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor

    @property
    def contrast(self) -> torch.Tensor:
        """Contrastive principal components, of both signs."""
        return self.positive + self.negative

    @property
    def total(self) -> torch.Tensor:
        """The whole guidance direction; CFG at scale w adds (w - 1) times this to the conditional denoiser."""
        return self.mean_shift + self.contrast


def linear_denoiser(x: torch.Tensor, mean: torch.Tensor, cov: torch.Tensor, sigma: float) -> torch.Tensor:
    """Best linear denoiser of x = x0 + sigma epsilon, exact for Gaussian x0: mean + K (x - mean).

    K = cov (cov + sigma^2 I)^-1. x: [batch, d], flatten images first; mean: [d]; cov: [d, d], symmetric, no
    negative eigenvalues; sigma above 0, in units of x0 (EDM: alpha = 1). Returns x0, [batch, d]. Raises `BadValue`.
    arXiv 2505.19210.
    """
    return mean + (x - mean) @ _gain(mean, cov, sigma)


def split(x: torch.Tensor, cond: Gaussian, uncond: Gaussian, sigma: float) -> Split:
    """CFG's direction for linear denoisers as mean shift and contrastive components, arXiv 2505.19210.

    D_c - D_u = (K_c - K_u)(x - mu_c) + (I - K_u)(mu_c - mu_u); the first term is split by the sign of the eigenvalues of
    K_c - K_u. Arguments as in `linear_denoiser`. The parts hold at any scale: guidance multiplies them by w - 1 (1 is off).
    Raises `BadValue`.
    """
    gain_cond, gain_uncond = _gain(*cond, sigma), _gain(*uncond, sigma)
    # K_c - K_u is symmetric: its eigenvectors are directions of the data in which one class varies more, or less, than all
    values, vectors = torch.linalg.eigh(gain_cond - gain_uncond)
    along, shift = (x - cond[0]) @ vectors, cond[0] - uncond[0]
    positive, negative = ((along * part) @ vectors.mT for part in (values.clamp(min=0), values.clamp(max=0)))
    return Split((shift - shift @ gain_uncond).expand_as(x), positive, negative)


def _gain(mean: torch.Tensor, cov: torch.Tensor, sigma: float) -> torch.Tensor:
    """K = cov (cov + sigma^2 I)^-1, a symmetric matrix."""
    if not 0 < sigma < float("inf"):
        raise BadValue(f"sigma must be above 0 and finite, got {sigma}")
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise BadValue(f"mean must be [d] and cov [d, d], got {tuple(mean.shape)} and {tuple(cov.shape)}")
    if not torch.allclose(cov, cov.mT):
        raise BadValue("cov must be a symmetric matrix of finite numbers")
    gain = torch.linalg.solve(cov + sigma**2 * torch.eye(len(mean)).to(cov), cov)
    # symmetric in exact arithmetic; eigh reads one triangle only
    return (gain + gain.mT) / 2
