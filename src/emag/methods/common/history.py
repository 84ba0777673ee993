"""What methods remember from one step to the next."""

from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Step
from ...maths.vectors import per_sample


def moves_on(step: Step, state: dict[str, Any]) -> bool:
    """True the first time a noise level is seen in a run: then, and only then, a method updates what it remembers.

    A solver of second order evaluates some levels twice. The second time a method acts with what it has.
    """
    new = state.get("level") != step.index
    state["level"] = step.index
    return new


def previous(step: Step, state: dict[str, Any], value: Any) -> Any:
    """What was given here at the noise level before, None at the first; `value` is remembered for the next."""
    if moves_on(step, state):
        state["before"], state["last"] = state.get("last"), value
    return state["before"]


def spared(branches: Branches) -> torch.Tensor:
    """True for samples whose unconditional prediction is the conditional one to the last bit, [batch, 1, ...].

    So it is where its evaluation was spared (`AG`). What a method remembers of guidance is not about such a step.
    """
    return per_sample((branches[COND] == branches[UNCOND]).flatten(1).all(1), branches[COND])


def summed(value: torch.Tensor, decay: float, anew: torch.Tensor | bool, new: bool, state: dict[str, Any],
           name: str = "sum") -> torch.Tensor:
    """m = value + decay m of the level before, 0 before the first and where `anew`; kept once a level, under `name`.

    value: [batch, ...]. anew: [batch, 1, ...] or one for all. new: the level is seen for the first time (`moves_on`).
    """
    if new:
        state[f"{name} before"] = state.get(name, torch.zeros_like(value))
    total = value + decay * torch.where(torch.as_tensor(anew, device=value.device), 0.0, state[f"{name} before"])
    if new:
        state[name] = total
    return total
