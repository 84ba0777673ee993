"""Exponential moving average guidance: the weak branch (EMAttention) and the rule that pushes away from it (EMAG)."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from ...core import AUTO, COND, UNCOND, Branches, Perturbation, Rule, Step
from ...maths.streams import Streams
from ...maths.vectors import on_channels
from ...schedules import Window
from ..common.push import Push
from .averaging import Averaging, BetaTime, Variant, check_averaging
from .compat import Compat, Preset, compat
from .idle import check_groups, check_idle
from .statistics import PickStatistic
from .stored_map import MapFormat
from .tracker import Tracker


@dataclass(frozen=True)
class EMAttention(Averaging):
    """The weak branch of EMAG: one block's attention replaced by its running average over the steps."""

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> Tracker:
        """State for one run over the noise levels `sigmas`."""
        return Tracker(self, self.window.phases(sigmas), streams)


@dataclass(frozen=True)
class EMAG(Push):
    """Exponential moving average guidance: push away from a network whose attention is its own running average.

    During the run each candidate block keeps an average of its attention, taken from the clean pass. In the weak pass
    one block uses the average in the place of its live attention: for each image the block where the two differ most
    (by default, see `statistic`). The push is p + (w - 1) (cond - weak), Eq. 14 of the paper: w above 1 moves away
    from the weak branch.

    At least one step must be averaged before one applies: a window that leaves no weak pass in a run is refused
    (`BadValue`), so a run of few steps may need another window. A parameter that would do nothing beside the others is
    refused too.

    Args:
        variant: what is averaged. "query": image queries, fused attention is kept. "map": image rows of the attention
            map, over all keys. "image": image rows over image keys. "text": image rows over text keys.
        layers: candidate blocks, by number; None takes the model's, "auto" the middle block.
        beta: decay of the average per step, E <- beta E + (1 - beta) A, in [0, 1]. A step is a distinct timestep,
            however often it is evaluated.
        strength: share of the average in what the weak pass uses, in [0, 1]. 1 replaces the live attention by it, 0
            leaves it live.
        window: steps that average and steps that apply, an `emag.Window`; None takes the model's. A model that has
            none needs one here.
        beta_time: "step" takes beta as it is. "equal-time" rescales it to the steps of the schedule, so that the
            average covers the same span of time as beta does in 250 steps.
        statistic: how the block is picked. The one whose live attention is furthest from its average: "mae"
            (mean absolute difference), "kl" (divergence of rows), "cosine" (angle of rows), or "logits" ("mae" times
            the size of the keys, variant "query" only). "entropy": the one with the sharpest attention. "fixed": no
            pick, all listed blocks at once. "auto": "logits" for queries (a preset of `compat` may say "mae"), else
            "mae".
        jitter: size of seeded noise on the average, at least 0 and at most 10; 0 is none.
        compat: switches for the authors' code paths, a `Compat` or a preset by name. "clean" is the method; for
            reproduction: "sd3-official", "dit-official", "dit-doubled", "sd3-cfg", "dit-cfg".
        maps: how averaged maps are stored: "float32", "scaled16" or "scaled8" (4, 2 or 1 bytes an entry). "auto": what
            compat says, else float32 on a CPU and scaled16 on other devices.

    >>> import emag
    >>> rule = emag.EMAG(3, layers=(6, 9), window=emag.Window.progress(0, 0.4, 0.8))
    >>> rule.window.phases((1.0, 0.8, 0.6, 0.4, 0.2))  # noise levels of a run of 5 steps
    ('watch', 'watch', 'apply', 'apply', 'off')
    >>> rule.neutral, emag.EMAG(1).neutral
    (False, True)
    """

    variant: Variant = "query"
    layers: tuple[int, ...] | None = None
    beta: float = 0.988
    strength: float = 1.0
    window: Window | None = None
    beta_time: BetaTime = "step"
    statistic: PickStatistic = "auto"
    jitter: float = 0.0
    compat: Preset | Compat = "clean"
    maps: MapFormat = "auto"

    name = "emag"
    paper = "arXiv 2512.17303"
    required = MappingProxyType({"window": "window=emag.Window.progress(0, 0.2, 1)"})
    cost = "one weak evaluation of the conditional rows per step of the window, from the first candidate block on"

    def __post_init__(self) -> None:
        super().__post_init__()
        switches = compat(self.compat)
        if isinstance(self.compat, dict):
            object.__setattr__(self, "compat", switches)
        check_averaging(self, beta=1, strength=1, jitter=10)
        if self.layers is not None:
            check_groups(self.layers, switches.groups, AUTO)
        check_idle(self, switches)

    @property
    def neutral(self) -> bool:
        return super().neutral or self._live

    @property
    def _live(self) -> bool:
        """True where what is put in the place of the live attention is the live attention itself."""
        switches = compat(self.compat)
        if switches.reweighs or switches.weak_row != "cond":
            return False
        return self.strength == 0 or (self.beta == 0 and self.jitter == 0 and switches.update_from == "cond")

    @property
    def perturbation(self) -> EMAttention:
        """The weak branch, once layers and window are known."""
        assert self.layers is not None and self.window is not None
        return EMAttention(self.variant, self.layers, self.beta, self.strength, self.window, self.beta_time,
                           self.statistic, self.jitter, compat(self.compat), self.maps)

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        # an average of the weak pass itself needs that pass also at steps where the scale is 1
        return super().branches(step) if self.perturbation.skippable else Rule.branches(self, step)

    def away(self, branches: Branches) -> torch.Tensor | None:
        weak = self.perturbation
        if not weak.takes_uncond:
            return super().away(branches)
        return branches[COND] - branches.get(weak, branches[UNCOND])  # not evaluated, it is the plain one

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        weak = self.perturbation
        # while the average is only built, the weak prediction is the clean one, and a push would be 0
        if not weak.applies(step.index, step.sigmas) and not weak.takes_uncond:
            return pred
        return on_channels(super().apply(pred, branches, step, state), pred, weak.compat.channels)
