"""MaHiRo: guidance towards the condition where the two predictions disagree."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import RunStart, Step
from ...maths.layout import unpack
from ...maths.vectors import per_sample
from ..common.scaled import Scaled


@dataclass(frozen=True)
class MaHiRo(Scaled):
    """MaHiRo: between CFG and w p, the scaled prediction itself, by how alike the two directions are.

    With g = u + w (p - u) and m = (w p + g) / 2, both in x0: q = 2 (1 + the mean cosine over channels of w u and m,
    each with the square root taken of its entries' sizes), and the result is (q g + (4 - q) w p) / 4. Alike predictions
    (cosine 1) give CFG. The mean is taken per sample; ComfyUI's node takes it over the batch.

    Args:
        scale: w, at least 0, or a schedule; 1 is off. None takes the model's default.

    >>> import emag
    >>> emag.MaHiRo(4.0).space
    'x0'
    """

    name = "mahiro"
    paper = "ComfyUI's Mahiro"
    equation = "(q g + (4 - q) w p) / 4, q = 2 (1 + cos(root(w u), root((w p + g) / 2)))"
    space = "x0"

    def fits_run(self, start: RunStart) -> None:
        unpack(start.first.x, start.first)

    def joined(self, pred: torch.Tensor, null: torch.Tensor, scale: float | torch.Tensor, step: Step,
               state: dict[str, Any]) -> torch.Tensor:
        wide, null = pred.double(), null.double()
        guided, leap = null + scale * (wide - null), scale * wide
        alike = torch.cosine_similarity(*(unpack(root(x), step) for x in (scale * null, (leap + guided) / 2)), dim=1)
        share = per_sample((1 + alike.flatten(1).mean(1)) / 2, wide)  # q / 4
        return leap + share * (guided - leap)


def root(x: torch.Tensor) -> torch.Tensor:
    """The square root of the size of each entry, with its sign."""
    return x.sign() * x.abs().sqrt()
