"""Where a host hands its attention calls to us by itself, whatever backend computes them."""

from dataclasses import replace

import torch

from ..maths.attention import Attention
from .seam import Live, Seam, in_full_precision
from .undo import Undo


class Slot:
    """The attention calls of a network whose host offers each to a function before it is computed.

    seams: those that wait for a call of the block under way. Without any, the host's calls go on as they are.
    """

    def __init__(self) -> None:
        self.seams: list[Seam] = []

    def put(self, seams: list[Seam], undo: Undo) -> None:
        """Let `seams` wait for calls, until `undo` closes."""
        undo.callback(setattr, self, "seams", self.seams)
        self.seams = seams

    def attend(self, call: Attention, live: Live) -> torch.Tensor | None:
        """The output [B, H, L, d] of one offered call, or None where nobody waits for it. live: see `Handler`."""
        asked = [seam for seam in self.seams if seam.takes(call.q.shape[-2], call.k.shape[-2])]  # each counts by itself
        if not asked:
            return None
        seam = asked[0]
        mine = replace(call, image=seam.image, cross=seam.cross, references=seam.references)
        return in_full_precision(seam.handle, mine, live)
