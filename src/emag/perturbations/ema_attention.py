"""Exponential moving average guidance: the weak branch (EMAttention) and the rule that pushes away from it (EMAG)."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from ..errors import BadValue
from ..guidance import COND, UNCOND, Branches, Rule, Step
from ..rules.cfg import on_channels
from ..schedules import APPLIED, Window, equal_time
from ..streams import Streams
from ..values import AUTO
from . import statistics, stored_map
from .base import Perturbation
from .compat import Compat, compat
from .idle import check_groups, check_idle
from .push import Push
from .tracker import Tracker

VARIANTS = ("query", "map", "image", "text")
BETA_TIMES = ("step", "equal-time")


@dataclass(frozen=True)
class EMAttention(Perturbation):
    """The weak branch of EMAG: one block's attention replaced by its running average over the steps."""

    variant: str
    layers: tuple[int, ...]
    beta: float
    strength: float
    window: Window
    beta_time: str
    statistic: str
    jitter: float
    compat: Compat
    maps: str = "auto"

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.layers

    @property
    def reads_text(self) -> bool:
        return self.variant == "text" or self.compat.reweighs

    @property
    def resume(self) -> int:
        return min(self.blocks) if self.compat.resume else 0

    @property
    def resolved_statistic(self) -> str:
        """The statistic with "auto" spelled out; with "fixed" the block is not picked, and none is needed."""
        if self.statistic in ("auto", "fixed"):
            return self.compat.query_statistic if self.variant == "query" else "mae"
        return self.statistic

    @property
    def skippable(self) -> bool:
        """True where a step may go without the weak pass: nothing is averaged in it."""
        return self.compat.accumulate_in == "clean"

    @property
    def tracks(self) -> bool:
        return self.skippable

    @property
    def all_rows(self) -> bool:
        return self.compat.rows == "all"

    @property
    def needs_uncond(self) -> bool:
        return self.compat.needs_uncond

    @property
    def takes_uncond(self) -> bool:
        return self.compat.weak_row == "uncond"

    def decay(self, count: int) -> float:
        """Decay per update of an average, on a schedule of `count` distinct timesteps.

        beta is the published one, of an update; where the same span is meant, a step's updates share its decay.
        """
        return equal_time(self.beta, count) ** (1 / self.compat.updates) if self.beta_time == "equal-time" else self.beta

    def first_weight(self, step: int, count: int) -> float:
        """What the first map weighs in the average after `step` further steps have been averaged."""
        return self.decay(count) ** (self.compat.updates * (step + 1) - 1)

    def applies(self, index: int, sigmas: tuple[float, ...]) -> bool:
        """True where the average replaces the live attention at step `index`."""
        return self.window.phases(sigmas)[index] in APPLIED

    def runs(self, index: int, sigmas: tuple[float, ...]) -> bool:
        """True where step `index` needs a weak pass."""
        return self.compat.every_step or self.applies(index, sigmas)

    def check(self, sigmas: tuple[float, ...]) -> None:
        """Raise `BadValue` where the window leaves no weak pass."""
        if not set(APPLIED) & set(self.window.phases(sigmas)):
            raise BadValue(f"the window of emag leaves no weak pass in {len(sigmas)} step(s): at least one step must be "
                           "averaged before one applies. Use more steps, or another window, e.g. "
                           "Window.progress(0, 0.2, 1)")

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> Tracker:
        """State for one run over the noise levels `sigmas`."""
        return Tracker(self, self.window.phases(sigmas), streams)

    def state_bytes(self, rows: int, image: int, text: int, heads: int, head_dim: int) -> int:
        """Bytes of the averages of `rows` rows of `image` + `text` tokens in the attention; a CPU's where maps is "auto"."""
        columns = {"query": head_dim, "map": image + text, "image": image, "text": text}[self.variant]
        kind = stored_map.resolve(self.maps, self.compat.ema_dtype, torch.device("cpu"))
        return len(self.blocks) * stored_map.size(kind, rows * heads * image, columns)


@dataclass(frozen=True)
class EMAG(Push):
    """Exponential moving average guidance, arXiv 2512.17303, Eq. 14: p + (w - 1) (cond - weak).

    scale: w, at least 0, or a schedule; 1 is off, above 1 moves away from the weak branch. variant: "query" (image queries
    averaged, fused attention kept), "map" (image rows over all keys), "image" (image rows over image keys), "text" (image
    rows over text keys). layers: candidate blocks, None takes the model's. beta in [0, 1]: decay of the average per step, a
    distinct timestep, however often it is evaluated; beta_time "equal-time" rescales it to the steps of the schedule.
    strength in [0, 1]: share of the average, 1 replaces. window: steps that average and steps that apply. statistic:
    "auto", "mae", "kl", "cosine", "entropy", "logits" (query only), or "fixed" for all listed blocks at once. jitter: at
    least 0, size of seeded noise on the average. compat: switches for the authors' code paths. maps: how averaged maps are
    stored: "float32", "scaled16", "scaled8" (4, 2, 1 bytes an entry), or "auto": what compat says, else float32 on a CPU and
    scaled16 on other devices. every: one weak evaluation in so many steps, after the first two; in between, cond - weak is
    extrapolated. agree: cosine of the last two from which on a step goes without, -1 for all. A parameter that would do
    nothing beside the others is refused.
    """

    variant: str = "query"
    layers: tuple[int, ...] | None = None
    beta: float = 0.988
    strength: float = 1.0
    window: Window | None = None
    beta_time: str = "step"
    statistic: str = "auto"
    jitter: float = 0.0
    compat: str | Compat = "clean"
    maps: str = "auto"

    name = "emag"
    paper = "arXiv 2512.17303"
    required = MappingProxyType({"window": "window=emag.Window.progress(0, 0.2, 1)"})
    cost = "one weak evaluation of the conditional rows per step of the window, from the first candidate block on"

    def __post_init__(self) -> None:
        super().__post_init__()
        switches = compat(self.compat)
        if isinstance(self.compat, dict):
            object.__setattr__(self, "compat", switches)
        _one_of("variant", self.variant, VARIANTS)
        _one_of("beta_time", self.beta_time, BETA_TIMES)
        _one_of("statistic", self.statistic, statistics.NAMES)
        _one_of("maps", self.maps, stored_map.FORMATS)
        if self.statistic == "logits" and self.variant != "query":
            raise BadValue("emag statistic='logits' is for variant='query'; use mae, kl, cosine or entropy")
        for name, low, high in (("beta", 0, 1), ("strength", 0, 1), ("jitter", 0, 10)):
            if not low <= getattr(self, name) <= high:
                raise BadValue(f"emag {name} must lie in [{low}, {high}], got {getattr(self, name)}")
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
        return super().branches(step) if self.perturbation.skippable else Rule.branches(self, step)

    def away(self, branches: Branches) -> torch.Tensor | None:
        weak = self.perturbation
        if not weak.takes_uncond:
            return super().away(branches)
        return branches[COND] - branches.get(weak, branches[UNCOND])  # not evaluated, it is the plain one

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        weak = self.perturbation
        if not weak.applies(step.index, step.sigmas) and not weak.takes_uncond:
            return pred
        return on_channels(super().apply(pred, branches, step, state), pred, weak.compat.channels)


def _one_of(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BadValue(f"emag {field} must be one of {', '.join(choices)}, got {value!r}")
