"""Projections of what is made, after the last rule: onto a sphere, onto the probabilities."""

import torch

from ..errors import BadValue


def on_sphere(z: torch.Tensor, radius: float) -> torch.Tensor:
    """The nearest point of the sphere of `radius`, R z / |z|, for each vector z [..., size]: SphereAR, arXiv 2509.24335.

    A vector of zeros, which has no nearest point, stays. Raises `BadValue`.
    """
    if not 0 < radius < float("inf"):
        raise BadValue(f"radius must be above 0 and finite, got {radius}")
    return radius * torch.nn.functional.normalize(z, dim=-1)


def on_simplex(p: torch.Tensor) -> torch.Tensor:
    """The nearest probabilities, at least 0 and of sum 1, to each p [..., size]: Dirichlet flow matching, arXiv 2402.05841.

    A guided mix (1 - w) p_u + w p_c has the sum 1, and numbers below 0 where w is above 1.
    """
    # the projection is max(p - t, 0), with t such that the sum is 1: t is the mean excess of the k largest, for the largest
    # k whose smallest member stays above 0
    largest = p.sort(dim=-1, descending=True).values
    count = torch.arange(1, p.shape[-1] + 1, device=p.device, dtype=p.dtype)
    excess = (largest.cumsum(-1) - 1) / count
    kept = (largest > excess).sum(-1, keepdim=True)
    return (p - excess.gather(-1, kept - 1)).clamp(min=0)
