"""The discrete cosine transform of planes, as two products with an orthonormal matrix."""

import math
from functools import lru_cache

import torch


def dct(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal DCT-II over the last two dimensions of `x` [..., height, width]."""
    return matrix(x.shape[-2]).to(x) @ x @ matrix(x.shape[-1]).to(x).T


def inverse_dct(x: torch.Tensor) -> torch.Tensor:
    """Inverse of `dct`."""
    return matrix(x.shape[-2]).to(x).T @ x @ matrix(x.shape[-1]).to(x)


def frequencies(height: int, width: int) -> torch.Tensor:
    """Radius of each coefficient, [height, width]: 0 is the mean, 1 the highest along one side."""
    rows, columns = torch.arange(height) / height, torch.arange(width) / width
    return (rows[:, None].square() + columns.square()).sqrt()


@lru_cache(maxsize=16)
def matrix(size: int) -> torch.Tensor:
    """Row k holds cos(pi k (i + 1/2) / size) over i, scaled to norm 1; [size, size] float64."""
    i = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * i[:, None] * (i + 0.5) / size) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows
