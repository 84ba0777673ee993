"""Dynamic thresholding of the guided clean sample."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import Branches, Rule, Step
from ...errors import BadValue
from ...maths.vectors import per_sample, widened


@dataclass(frozen=True)
class DynamicThreshold(Rule):
    """Dynamic thresholding: bring a guided clean sample that left the range of pixels back into it.

    With q = clip(quantile of |x0|, 1, maximum), per sample, it gives clip(x0, -q, q) / q (Imagen's). For models of
    pixels in [-1, 1]: latents are not bounded so, and it flattens them. Works on the combined prediction: name a
    combining rule before it.

    Args:
        percentile: which quantile, as a fraction in [0, 1]; 0.995 as in diffusers.
        maximum: cap on q, at least 1; None is no cap, as published. 1 makes q 1 at all times, which is plain
            clipping; diffusers' default is just that.

    >>> import emag
    >>> emag.DynamicThreshold(0.995).space
    'x0'
    """

    percentile: float = 0.995
    maximum: float | None = None

    name = "dynamic-threshold"
    paper = "arXiv 2205.11487"
    equation = "clip(x0, -q, q) / q, q = clip(quantile of |x0|, 1, maximum)"
    kind = "after"
    space = "x0"

    def __post_init__(self) -> None:
        if not 0 <= self.percentile <= 1:
            raise BadValue(f"dynamic-threshold percentile is a fraction in [0, 1], e.g. 0.995, got {self.percentile}")
        if self.maximum is not None and not 1 <= self.maximum < float("inf"):
            raise BadValue(f"dynamic-threshold maximum must be at least 1 (None is no cap), got {self.maximum}")

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        wide = widened(pred)
        q = per_sample(quantile(wide.flatten(1).abs(), self.percentile).clamp(1, self.maximum), wide)
        return (wide.clamp(-q, q) / q).to(pred.dtype)


def quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    """Quantile `share` of each row of `values` [batch, n], linear between neighbours; of any n, unlike torch.quantile."""
    last = values.shape[1] - 1
    at = share * last
    # only the end of the order that holds both neighbours is sorted: of 0.995 a two-hundredth
    count, above = (last - int(at) + 1, True) if share > 0.5 else (min(int(at) + 2, last + 1), False)
    ordered = values.topk(count, dim=1, largest=above).values
    low, high = (ordered[:, -1], ordered[:, max(count - 2, 0)]) if above else (ordered[:, int(at)], ordered[:, -1])
    return torch.lerp(low, high, at - int(at))
