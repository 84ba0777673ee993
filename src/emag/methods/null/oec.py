"""Guidance with orthogonal error correction."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Rule, Step
from ...errors import BadValue
from ...maths.vectors import cosine_between, divided, dot
from ..common.history import previous, spared


@dataclass(frozen=True)
class OEC(Rule):
    """CFG-OEC: correct the unconditional prediction by what its error has in common with the conditional one's.

    Errors are read off the last change: with dc and du the changes of the two predictions since the step before, and q
    their cosine, u moves along dc. The paper's four equations come to this one, and take all steps as
    equally long; on uneven grids so does this. On the path's straight space; the first step is left. It combines nothing:
    whatever does sees the new u.

    Args:
        threshold: acts per sample where q is below, in [-1, 1]; not published: 1 acts wherever the changes are not
            parallel, a port has 0.5. -1 is off.

    >>> import emag
    >>> emag.OEC().kind  # emag.guide(pipe, emag.OEC(), emag.CFG(4.0))
    'null'
    """

    threshold: float = 1.0

    name = "cfg-oec"
    paper = "arXiv 2511.14075"
    equation = "u + (1 - q) <dc, du> / |dc|^2 dc, q = cos(dc, du)"
    kind = "null"
    space = "path"

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1:
            raise BadValue(f"cfg-oec threshold is a cosine in [-1, 1], got {self.threshold}")

    @property
    def neutral(self) -> bool:
        return self.threshold == -1

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        if UNCOND not in branches:  # spared: the next change would be over two steps
            state.clear()
            return None
        pair = branches[COND], branches[UNCOND]
        before = previous(step, state, pair)
        if before is None:
            return None
        ours, theirs = ((now - then).double() for now, then in zip(pair, before, strict=True))
        q = cosine_between(ours, theirs)
        moved = (1 - q) * divided(dot(ours, theirs), dot(ours, ours)) * ours
        return (pair[1] + torch.where((q < self.threshold) & ~spared(branches), moved, 0.0)).to(pair[1].dtype)
