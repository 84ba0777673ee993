"""What a run of ComfyUI's is told of its host."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .conditions import Names


@dataclass(frozen=True)
class Batch:
    """The batch call of a step. make: (conditions, x) -> ComfyUI's predictions of the clean sample, one for each; watched:
    others read those of this step, so none is spared."""

    make: Callable[[list[Any], torch.Tensor], list[torch.Tensor]]
    watched: bool = False

    def __call__(self, conds: list[Any], x: torch.Tensor) -> list[torch.Tensor]:
        """The predictions at x."""
        return self.make(conds, x)


@dataclass(frozen=True)
class Setting:
    """What a run is told of its host. further: conditions that rules name. out: the model's latents as they leave the
    sampler. names: what of a condition rules may change."""

    further: Mapping[str, Any]
    out: Callable[[torch.Tensor], torch.Tensor]
    names: Names = ()
