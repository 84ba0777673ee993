"""Which weak branches of a step can share one pass."""

from typing import Any

from ..core import Perturbation, State
from .handlers import Group


def is_whole(branch: Perturbation, state: State) -> bool:
    """True where a branch is evaluated from inputs, or with weights, of its own: nothing recorded can stand in for them."""
    return branch.whole or type(state).inputs is not State.inputs


def groups(needed: Group, lone: bool = False) -> list[list[tuple[Perturbation, State]]]:
    """Branches that can share one batched pass: nothing but attention changed, resumed at the same block. lone: none can."""
    found: dict[Any, list[tuple[Perturbation, State]]] = {}
    for at, (branch, state) in enumerate(needed):
        # a batched pass begins at one block for all, and changes blocks as a whole for all its rows
        alone = lone or is_whole(branch, state) or branch.all_rows or branch.changes
        found.setdefault(("alone", at) if alone else branch.resume, []).append((branch, state))
    return list(found.values())
