"""Classifier-free guidance."""

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadValue
from ..guidance import UNCOND, Branches, Rule, Step


@dataclass(frozen=True)
class CFG(Rule):
    """Classifier-free guidance, arXiv 2207.12598: u + w (p - u), with p the running prediction.

    scale: w, at least 0; 1 gives the conditional prediction, 0 the unconditional one.
    channels: guide only the first so many channels, the rest stays p (3 on the original DiT); None guides all.
    """

    scale: float | None = None
    channels: int | None = None

    name = "cfg"
    paper = "arXiv 2207.12598"
    equation = "u + w (p - u)"
    combines = True

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 <= self.scale < float("inf"):
            raise BadValue(f"cfg scale must be at least 0 (1 is off), got {self.scale}")
        if self.channels is not None and self.channels < 1:
            raise BadValue(f"cfg channels must be at least 1 or None, got {self.channels}")

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        assert self.scale is not None
        guided = extrapolate(branches[UNCOND], pred, self.scale)
        return on_channels(guided, pred, self.channels)


def extrapolate(weak: torch.Tensor, strong: torch.Tensor, scale: float) -> torch.Tensor:
    """weak + scale (strong - weak), where scale 0, scale 1 and equal branches are exact bit for bit."""
    return torch.lerp(weak, strong, scale)


def on_channels(new: torch.Tensor, old: torch.Tensor, channels: int | None) -> torch.Tensor:
    """`new` on the first `channels` channels (dimension 1), `old` on the others."""
    return new if channels is None else torch.cat([new[:, :channels], old[:, channels:]], dim=1)
