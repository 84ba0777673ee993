"""Precision, recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), as values per image.

A ball around each image reaches to its k-th nearest neighbour of the same set. Precision: generated images in a real ball.
Density: real balls around a generated image, / k. Recall: real images in a generated ball. Coverage: real balls that hold a
generated image. Inside means strictly nearer than the radius.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ....errors import BadValue

NEAR = 1e-12
"""Squared distance, over the mean square of the features, below which two images are one: what rounding leaves."""


@dataclass(frozen=True)
class Manifolds:
    """precision, density [generated]; recall, coverage [real]; fp64. The metric is the mean.

    alone_recall, alone_coverage [generated]: what recall and coverage lose without this image, the other balls as they are:
    the share of real images that its ball alone holds, and of real balls that hold it alone.
    """

    precision: np.ndarray
    recall: np.ndarray
    density: np.ndarray
    coverage: np.ndarray
    alone_recall: np.ndarray
    alone_coverage: np.ndarray


def prdc(real: Any, generated: Any, k: int = 5, chunk: int = 2048, device: str | torch.device = "cpu",
         real_radii: torch.Tensor | None = None) -> Manifolds:
    """Compare features real [r, d] and generated [n, d]; at most `chunk` rows of distances are held at a time.

    real_radii: `radii` of the real features, where they are known. Raises `BadValue` where a set has k images or fewer.
    """
    if k < 1 or min(len(real), len(generated)) <= k:
        raise BadValue(f"k={k} neighbours need more than {k} images on each side, got {len(real)} and {len(generated)}")
    x, y = (torch.as_tensor(one, device=device).double() for one in (real, generated))
    x, y = x - x.mean(0), y - x.mean(0)  # less cancellation in |x|^2 + |y|^2 - 2 x.y
    around_x = radii(x, k, chunk) if real_radii is None else real_radii
    around_y = radii(y, k, chunk)
    inside, alone_recall, alone_coverage = torch.zeros(3, len(y), device=y.device, dtype=torch.float64)
    recall, coverage = [], []
    for rows, distances in _distances(x, y, chunk):
        near, held = distances < around_x[rows, None], distances < around_y
        inside += near.sum(0)
        coverage.append(near.any(1))
        recall.append(held.any(1))
        alone_recall += _alone(held)
        alone_coverage += _alone(near)
    found = (inside > 0, torch.cat(recall), inside / k, torch.cat(coverage), alone_recall / len(x), alone_coverage / len(x))
    return Manifolds(*(value.double().cpu().numpy() for value in found))


def realism(real: Any, generated: Any, k: int = 5, chunk: int = 2048, device: str | torch.device = "cpu",
            real_radii: torch.Tensor | None = None, kept: float = 0.5) -> np.ndarray:
    """Realism score of each generated image, [generated] (Kynkaanniemi et al. 2019, Eq. 3): over the real images the largest
    radius of a ball over the distance to its centre. From 1 on the image lies in such a ball; at most 1000, as of a copy.

    kept: share of the balls that count, the smallest ones; the paper's is half. Real images that lie far from others have
    balls so large that all in them would look real. With 1 the score is above 1 where precision is 1. Others as of `prdc`.
    """
    x, y = (torch.as_tensor(one, device=device).double() for one in (real, generated))
    x, y = x - x.mean(0), y - x.mean(0)
    around = radii(x, k, chunk) if real_radii is None else real_radii
    small = around <= around.quantile(kept, interpolation="higher")
    near = max(NEAR * float(x.square().sum(1).mean()), 1e-300)
    x, around = x[small], around[small].clamp(min=near)  # a ball of copies has no radius, and they lie in it
    best = torch.zeros(len(y), dtype=torch.float64, device=y.device)
    for rows, distances in _distances(x, y, chunk):
        best = torch.maximum(best, (around[rows, None] / distances.clamp(min=near)).amax(0))
    return best.sqrt().clamp(max=1000).cpu().numpy()


def _alone(near: torch.Tensor) -> torch.Tensor:
    """In how many rows of near [rows, generated] each column is the only true one, [generated]."""
    return (near & (near.sum(1, keepdim=True) == 1)).sum(0)


def radii(x: torch.Tensor, k: int, chunk: int = 2048) -> torch.Tensor:
    """Squared distance of each row of x [n, d] to its k-th nearest other row, [n]."""
    found = []
    for rows, distances in _distances(x, x, chunk):
        here = torch.arange(rows.start, rows.start + len(distances), device=x.device)
        distances[torch.arange(len(here), device=x.device), here] = torch.inf
        found.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(found)


def _distances(x: torch.Tensor, y: torch.Tensor, chunk: int) -> Iterator[tuple[slice, torch.Tensor]]:
    squares = y.square().sum(1)
    for start in range(0, len(x), chunk):
        part = x[start:start + chunk]
        yield slice(start, start + chunk), (part.square().sum(1)[:, None] + squares - 2 * part @ y.T).clamp_(min=0)
