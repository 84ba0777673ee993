"""Rescaling of the guided prediction."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, Branches, Rule, Step
from ...errors import BadValue
from ...maths.vectors import per_sample


@dataclass(frozen=True)
class Rescale(Rule):
    """Guidance rescale: give the guided prediction the contrast of the conditional one again.

    A large scale makes predictions too large, and images overexposed. g is the guided prediction, c the conditional
    one, and std a standard deviation per sample over all other dimensions, in the network's own space. EzAudio's
    rescale (arXiv 2409.10819) is the same. Works on the combined prediction: name a combining rule before it.

    Args:
        phi: share of the rescaled prediction, in [0, 1]; 0 is off. 0.7 in the paper's text-to-image examples, 0.75 in
            EzAudio's.

    >>> import emag
    >>> emag.Rescale(0.0).neutral
    True
    """

    phi: float = 0.7

    name = "rescale"
    paper = "arXiv 2305.08891"
    equation = "g (phi std(c) / std(g) + 1 - phi)"
    kind = "after"

    def __post_init__(self) -> None:
        if not 0 <= self.phi <= 1:
            raise BadValue(f"rescale phi must lie in [0, 1], got {self.phi}")

    @property
    def neutral(self) -> bool:
        return self.phi == 0

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        clean, guided = branches[COND].flatten(1).std(1), pred.flatten(1).std(1)
        tiny = torch.finfo(guided.dtype).tiny
        # a prediction without spread has none to correct
        ratio = torch.where(guided > 0, clean / guided.clamp(min=tiny), torch.ones_like(guided))
        return pred * per_sample(1 + self.phi * (ratio - 1), pred)
