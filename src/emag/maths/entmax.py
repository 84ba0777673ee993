r"""Sparse softmaxes, exact: entmax with alpha 1.5 and 2 (sparsemax), thresholds found by sorting.

$p = [(\alpha - 1) z - \tau]_+^{1 / (\alpha - 1)}$ along the last dimension, with the $\tau$ for which p sums to 1. Adding a
constant to z changes nothing; alpha near 1 is softmax.
"""

import torch

from ..errors import BadValue
from .vectors import widened

ALPHAS = (1.5, 2.0)


def entmax(z: torch.Tensor, alpha: float = 1.5) -> torch.Tensor:
    """Weights [..., n] that sum to 1 for logits z [..., n], many of them 0; same dtype, computed in at least fp32.

    alpha: 1.5 or 2. Logits may be -inf as long as one of a row is finite. Raises `BadValue` for another alpha. arXiv
    1905.05702, Eq. 6 and appendix; sparsemax: arXiv 1602.02068.
    """
    if alpha not in ALPHAS:
        raise BadValue(f"entmax alpha must be 1.5 or 2, got {alpha!r}")
    wide = widened(z)
    scaled = ((wide - wide.amax(-1, keepdim=True)) * (alpha - 1)).clamp(min=-1)  # the largest gets at most 1: tau >= -1
    # p = [s - tau]_+^(1 / (alpha - 1)) with s = (alpha - 1) z: the power is 1 for alpha 2, and 2 for alpha 1.5
    threshold = _sparsemax if alpha == 2 else _entmax15
    weights = (scaled - threshold(scaled)).clamp(min=0)
    return (weights if alpha == 2 else weights.square()).to(z.dtype)


def _sparsemax(z: torch.Tensor) -> torch.Tensor:
    """tau with sum [z - tau]_+ = 1: over the k largest, tau_k = (sum z - 1) / k."""
    ordered, k = _ordered(z)
    return _supported((ordered.cumsum(-1) - 1) / k, ordered)


def _entmax15(z: torch.Tensor) -> torch.Tensor:
    """tau with sum [z - tau]_+^2 = 1: over the k largest, tau_k = mean - sqrt((1 - k variance) / k)."""
    ordered, k = _ordered(z)
    # sum over the k largest of (s - tau)^2 = 1 is a quadratic in tau; its smaller root keeps all k above tau
    mean, square = ordered.cumsum(-1) / k, ordered.square().cumsum(-1) / k
    room = (1 - k * (square - mean.square())) / k
    return _supported(mean - room.clamp(min=0).sqrt(), ordered)


def _ordered(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return z.sort(dim=-1, descending=True).values, torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)


def _supported(taus: torch.Tensor, ordered: torch.Tensor) -> torch.Tensor:
    """Of the candidates tau_k the one for the largest k whose k-th value still lies above it."""
    support = (taus < ordered).sum(-1, keepdim=True).clamp(min=1)
    return taus.gather(-1, support - 1)
