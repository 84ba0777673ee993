"""How far the live attention is from its running average: the statistics by which a block is picked.

Each takes the average E and the live A, both [B, H, rows, columns] in fp32, and gives one number per sample, a sum over
rows that the caller divides by the number of summed rows. Larger means picked first.
"""

from collections.abc import Callable
from typing import Literal

import torch

TINY = 1e-12


def mae(average: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference, summed over rows [B]."""
    return (average - live).abs_().mean(-1).sum((1, 2))


def kl(average: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence KL(live || average) of the rows, summed over rows [B]; nats."""
    return torch.special.xlogy(live, live.clamp(min=TINY) / average.clamp(min=TINY)).sum((1, 2, 3))


def cosine(average: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    """One minus the cosine of the angle between the rows, summed over rows [B]."""
    return (1 - torch.nn.functional.cosine_similarity(average, live, dim=-1, eps=TINY)).sum((1, 2))


def entropy(average: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    """Minus the entropy of the live rows, summed over rows [B]: the sharpest attention is picked."""
    return torch.special.xlogy(live, live.clamp(min=TINY)).sum((1, 2, 3))


def over_rows(name: str, statistic: torch.Tensor) -> torch.Tensor:
    """One number for a batch [B], in each of its rows: the mean; of entropies the lower median, as in the authors' code."""
    one = -(-statistic).median() if name == "entropy" else statistic.mean()
    return one.expand_as(statistic)


OnMaps = Literal["mae", "kl", "cosine", "entropy"]
PickStatistic = Literal["auto", OnMaps, "logits", "fixed"]
ON_MAPS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mae": mae, "kl": kl, "cosine": cosine, "entropy": entropy}
