"""How a model is asked for its next token, by whatever reads a text beside the run's own passes."""

from typing import Any

import torch

from ..errors import Unsupported


def last_logits(out: Any) -> torch.Tensor:
    """Those of the next token, [rows, vocabulary], fp32."""
    found: torch.Tensor = out.logits[:, -1].float()
    return found


def asked_last(mask: torch.Tensor, fed: int, known: set[str]) -> dict[str, torch.Tensor | int]:
    """Arguments that say where the last `fed` tokens of a text stand, and that only the last one is asked about.

    mask: [rows, length] of the whole text. known: the arguments that the model takes.
    """
    # padding holds no place: the first token of each row is at position 0
    places = (mask.cumsum(1) - 1).clamp(min=0)[:, mask.shape[1] - fed:]
    further = {"position_ids": places, "logits_to_keep": 1}
    return {"attention_mask": mask, **{name: value for name, value in further.items() if name in known}}


def check_places(model: Any) -> None:
    """Raise `Unsupported` where a place is more than a number."""
    if hasattr(model, "get_rope_index") or hasattr(getattr(model, "model", None), "get_rope_index"):
        raise Unsupported(f"{type(model).__name__} counts positions along several axes, which is not supported here")
