"""What a run of ComfyUI's is told of its host."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .conditions import Names

Batch = Callable[[list[Any], torch.Tensor], list[torch.Tensor]]
"""(conditions, x) -> ComfyUI's predictions of the clean sample, one for each."""


@dataclass(frozen=True)
class Setting:
    """What a run is told of its host. watched: other nodes read the predictions of a step, so none is spared. further:
    conditions that rules name. out: the model's latents as they leave the sampler. names: what of a condition rules may
    change."""

    watched: bool
    further: Mapping[str, Any]
    out: Callable[[torch.Tensor], torch.Tensor]
    names: Names = ()
