"""EMAG's state in one run: an average and a statistic per candidate block, and the pick they lead to."""

import copy
from dataclasses import dataclass, field

import torch

from ...core import Rows, Sdpa, State, Step
from ...maths.attention import Attention
from ...maths.streams import Streams
from ...schedules import APPLIED, OBSERVED, Phase
from . import statistics
from .average import Average
from .averaging import Averaging
from .map_average import MapAverage
from .query_average import QueryAverage


@dataclass
class Tracker(State):
    """State of one weak branch: filled by the clean pass (`watch`), used by the weak pass (`perturb`).

    A step is a distinct timestep. Where it is evaluated again (Heun's schedulers, an own loop's solver), the average has
    decayed for it already: it is used as it is, with the picks that were made. length: timesteps of the whole schedule.
    """

    spec: Averaging
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
    at: int = -1
    again: bool = False
    length: int = 0

    def along(self, length: int) -> None:
        self.length = length

    def begin(self, index: int) -> None:
        """Start of an evaluation of step `index`: its phase, and the statistics of the step before put aside.

        Where another network has just taken over there is nothing to apply yet.
        """
        # a solver of second order evaluates a timestep twice: it is averaged and picked once
        self.again, self.at = index == self.at, index
        self.phase = "watch" if self.phases[index] != "off" and not self.averages else self.phases[index]
        if not self.again:
            self.before = dict(self.statistic)
            self.pick = None
        self.picks.append(None)

    def elsewhere(self, step: Step) -> "Tracker":
        """The average as it is, with the picks that were made."""
        other = copy.copy(self)
        other.now, other.again = step, True
        return other

    @property
    def observes(self) -> bool:
        """True where the average takes in this evaluation."""
        return self.phase in OBSERVED and not self.again

    @property
    def watches(self) -> bool:
        """True where the clean pass of this step is to be averaged."""
        return self.observes and self.spec.compat.accumulate_in == "clean"

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
        """Pick a block per sample, or one in each group, for this step's weak pass: largest statistic, ties to the first.

        A pick [B] or [B, groups] is the block's place among the listed ones.
        """
        if self.phase not in APPLIED or self.spec.statistic == "fixed":
            return
        if self.pick is None:
            self.pick = self._picked(self.before if self.spec.compat.stat_lag else self.statistic)
        self.picks[-1] = self.pick

    def _picked(self, found: dict[int, torch.Tensor]) -> torch.Tensor:
        held = torch.stack([found[block] for block in self.spec.blocks])
        groups = self.spec.compat.groups or (len(held),)
        starts = [sum(groups[:i]) for i in range(len(groups))]
        # argmax gives the first of equal values, on all devices
        picks = torch.stack([part.argmax(0) + start for part, start in zip(held.split(groups), starts)], 1)
        if self.spec.compat.spaced:  # the largest of equally distributed numbers is any of them
            drawn = self.streams.normal("emag/spaced", picks.float()).argmax(1, keepdim=True)
            picks = picks.gather(1, drawn)
        return picks.squeeze(1) if picks.shape[1] == 1 else picks

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor:
        """Attention output of a candidate block in the weak pass."""
        if self.observes and self.spec.compat.accumulate_in == "perturbed":
            self._observe(block, call)
        if self.phase not in APPLIED:
            return sdpa(call.q)
        chosen = self._chosen(block, call)
        # free to ask on a CPU; elsewhere asking would wait for the device
        if chosen.device.type == "cpu" and not chosen.any():
            return sdpa(call.q)
        out, differs = self.averages[block].output(call, sdpa, chosen)
        self.note(differs)
        return out

    def _chosen(self, block: int, call: Attention) -> torch.Tensor:
        if self.pick is None:
            return torch.ones(call.q.shape[0], dtype=torch.bool, device=call.q.device)
        own = self.pick == self.spec.blocks.index(block)
        return own if own.ndim == 1 else own.any(1)

    def _observe(self, block: int, call: Attention) -> None:
        # where tokens become more or fewer (another node shrinks a U-Net's grid for a while) it starts afresh
        if block not in self.averages or not self.averages[block].fits(call):
            self.averages[block] = self._average(block)
        found = self.averages[block].observe(call)
        alone = self.spec.compat.stat_scope == "sample"
        self.statistic[block] = found if alone else statistics.over_rows(self.spec.statistic, found)

    def _average(self, block: int) -> Average:
        spec, switches = self.spec, self.spec.compat
        decay = spec.decay(self.length or len(self.phases))
        settings = (decay, spec.strength, spec.resolved_statistic, switches.stat_against,
                    getattr(torch, switches.ema_dtype), spec.jitter, f"emag/{block}", self.streams)
        if spec.variant == "query":
            return QueryAverage(*settings)
        columns = "all" if spec.variant == "map" else spec.variant
        return MapAverage(*settings, columns=columns, maps=spec.maps, renorm=switches.renorm, text_scale=switches.text_scale)
