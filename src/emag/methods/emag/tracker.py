"""EMAG's state in one run: an average and a statistic per candidate block, and the pick they lead to."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ...core import Rows, Sdpa, State
from ...maths.attention import Attention
from ...maths.streams import Streams
from ...schedules import Phase
from .average import Average, MapAverage, QueryAverage

if TYPE_CHECKING:
    from .rule import EMAttention


@dataclass
class Tracker(State):
    """State of one weak branch: filled by the clean pass (`watch`), used by the weak pass (`perturb`)."""

    spec: "EMAttention"
    phases: tuple[Phase, ...]
    streams: Streams
    averages: dict[int, Average] = field(default_factory=dict)
    statistic: dict[int, torch.Tensor] = field(default_factory=dict)
    before: dict[int, torch.Tensor] = field(default_factory=dict)
    picks: list[torch.Tensor | None] = field(default_factory=list)
    differed: torch.Tensor | None = None
    proves: bool = True
    phase: Phase = "off"
    pick: torch.Tensor | None = None

    def begin(self, index: int) -> None:
        """Start of step `index`: its phase, and the statistics of the step before put aside.

        Where another network has just taken over there is nothing to apply yet.
        """
        self.phase = "watch" if self.phases[index] == "apply" and not self.averages else self.phases[index]
        self.before = dict(self.statistic)
        self.pick = None
        self.picks.append(None)

    @property
    def watches(self) -> bool:
        """True where the clean pass of this step is to be averaged."""
        return self.phase != "off" and self.spec.compat.accumulate_in == "clean"

    def watch(self, block: int, call: Attention, rows: Rows) -> None:
        """Take in a candidate block's live attention on the clean pass."""
        switches = self.spec.compat
        if switches.rows == "all":
            self._observe(block, call)
            return
        self._observe(block, call.rows(rows.cond))
        if switches.update_from == "cond+uncond" and rows.uncond is not None:
            self._observe(block, call.rows(rows.uncond))

    def choose(self) -> None:
        """Pick a block per sample for this step's weak pass: largest statistic, ties to the first listed block."""
        statistics = self.before if self.spec.compat.stat_lag else self.statistic
        if self.phase == "apply" and self.spec.statistic != "fixed":
            order = self.spec.blocks
            self.pick = torch.stack([statistics[block] for block in order]).argmax(0)
            self.picks[-1] = self.pick

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor:
        """Attention output of a candidate block in the weak pass."""
        if self.phase != "off" and self.spec.compat.accumulate_in == "perturbed":
            self._observe(block, call)
        if self.phase != "apply":
            return sdpa(call.q)
        chosen = self._chosen(block, call)
        if chosen.device.type == "cpu" and not chosen.any():
            return sdpa(call.q)
        out, differs = self.averages[block].output(call, sdpa, chosen)
        self.note(differs)
        return out

    def _chosen(self, block: int, call: Attention) -> torch.Tensor:
        if self.pick is None:
            return torch.ones(call.q.shape[0], dtype=torch.bool, device=call.q.device)
        return self.pick == self.spec.blocks.index(block)

    def _observe(self, block: int, call: Attention) -> None:
        if block not in self.averages:
            self.averages[block] = self._average(block)
        statistic = self.averages[block].observe(call)
        scope = self.spec.compat.stat_scope
        self.statistic[block] = statistic if scope == "sample" else statistic.mean().expand_as(statistic)

    def _average(self, block: int) -> Average:
        spec = self.spec
        settings = (spec.decay(len(self.phases)), spec.strength, spec.resolved_statistic, spec.compat.stat_against,
                    getattr(torch, spec.compat.ema_dtype), spec.jitter, f"emag/{block}", self.streams)
        if spec.variant == "query":
            return QueryAverage(*settings)
        return MapAverage(*settings, image_keys=spec.variant == "image", maps=spec.maps)
