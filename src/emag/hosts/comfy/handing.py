"""What goes back to ComfyUI after a step: its own predictions, moved by what the rules changed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...core import COND, UNCOND, Step
from .levels import moved

Branches = Mapping[Any, torch.Tensor]


def handed(out: Sequence[torch.Tensor], before: Branches, after: Branches, pred: torch.Tensor,
           step: Step) -> list[torch.Tensor]:
    """[guided, unconditional]; what the rules leave as it is comes back bit for bit. out: ComfyUI's own predictions of the
    clean sample; before, after: the branches before and after the rules about the unconditional one; pred: what all made."""
    cond = before[COND]
    guided = out[0] if pred is cond else moved(out[0], pred - cond, step)
    return [guided, _null(out, before, after, step)]


def _null(out: Sequence[torch.Tensor], before: Branches, after: Branches, step: Step) -> torch.Tensor:
    """The unconditional prediction, which ComfyUI's own cfg reads, and samplers of the CFG++ kind."""
    null, new = before.get(UNCOND), after.get(UNCOND)
    if new is None or new is null:
        return out[1]
    # where it was spared ComfyUI has zeros in its place: what a rule gave is told from the conditional one
    return moved(out[0], new - before[COND], step) if null is None else moved(out[1], new - null, step)
