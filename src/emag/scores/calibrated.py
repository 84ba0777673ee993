"""A classifier of yours as a score, calibrated as EluCD does it: two temperatures, and soft activations."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..errors import BadValue

Classify = Callable[[torch.Tensor], torch.Tensor]
"""images [batch, 3, height, width] in [0, 1] -> logits [batch, classes]; differentiable."""


@dataclass(frozen=True, eq=False)
class Calibrated:
    """t1 f_y - log sum_j exp(t2 f_j), f the logits of a classifier of yours (EluCD, arXiv 2310.11311).

    network: images [batch, 3, height, width] in [0, 1] -> logits [batch, classes], its own normalisation inside. label: y by
    number, one for all images or one each. temperatures: t1 and t2; (1, 1) is log p(y | image); the authors take (1, 0.5)
    for DDPM and (1, 0) for EDM, where only the logit matters. soft: beta of the Softplus that stands for each ReLU of the
    network, in a copy of it: 3 for DDPM and 5 for EDM; 0 leaves the network as it is.
    """

    network: Classify
    label: int | Sequence[int]
    temperatures: tuple[float, float] = (1.0, 0.5)
    soft: float = 0.0

    name: ClassVar[str] = "calibrated"

    def __post_init__(self) -> None:
        if self.soft < 0:
            raise BadValue(f"the softness of a classifier must be at least 0, got {self.soft}")
        if self.soft:
            object.__setattr__(self, "network", softened(self.network, self.soft))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.network(images)
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(images):
            got = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise BadValue(f"a classifier gives logits [batch, classes], got {got} of {len(images)} images")
        return log_ratio(logits, self.label, self.temperatures)


def log_ratio(logits: torch.Tensor, label: int | Sequence[int], temperatures: tuple[float, float]) -> torch.Tensor:
    """t1 f_y - log sum_j exp(t2 f_j), [batch], of logits f [batch, classes]; label: y, one for all or one each."""
    batch, classes = logits.shape
    labels = torch.as_tensor(label, device=logits.device).reshape(-1)
    if len(labels) not in (1, batch) or not bool(((labels >= 0) & (labels < classes)).all()):
        raise BadValue(f"a label is a number from 0 to {classes - 1}, one for all {batch} images or one each, got {label!r}")
    own = logits.gather(1, labels.expand(batch)[:, None])[:, 0]
    return temperatures[0] * own - (temperatures[1] * logits).logsumexp(1)


def softened(network: Classify, beta: float) -> nn.Module:
    """A copy of `network` with a Softplus(beta), log(1 + exp(beta x)) / beta, in the place of each ReLU module.

    Its gradient is smooth, where that of a ReLU jumps. Raises `BadValue` for what is no module, or has no ReLU module.
    """
    if not isinstance(network, nn.Module):
        raise BadValue(f"activations can be softened in a torch.nn.Module, got {type(network).__name__}: leave soft at 0")
    made = nn.ModuleList([copy.deepcopy(network)])
    sharp = [(module, name) for module in made.modules() for name, child in module.named_children()
             if isinstance(child, nn.ReLU)]
    if not sharp:
        raise BadValue(f"{type(network).__name__} has no ReLU module to soften: leave soft at 0")
    for module, name in sharp:
        setattr(module, name, nn.Softplus(beta=beta))
    return made[0]
