"""What EMAG averages, of which blocks, how fast it forgets, and when the average is used."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...core import Perturbation
from ...errors import BadValue
from ...schedules import APPLIED, Window, equal_time
from . import stored_map
from .compat import Compat
from .statistics import PickStatistic
from .stored_map import MapFormat

Variant = Literal["query", "map", "image", "text"]
BetaTime = Literal["step", "equal-time"]


def check_averaging(rule: Any, **most: float) -> None:
    """Raise `BadValue` for a statistic that the variant has not, and for a field outside [0, its value in `most`]."""
    if rule.statistic == "logits" and rule.variant != "query":
        raise BadValue(f"{rule.name} statistic='logits' is for variant='query'; use mae, kl, cosine or entropy")
    for field, high in most.items():
        if not 0 <= getattr(rule, field) <= high:
            raise BadValue(f"{rule.name} {field} must lie in [0, {high}], got {getattr(rule, field)}")


@dataclass(frozen=True)
class Averaging(Perturbation):
    """What is averaged and where it is used: the data of EMAG's weak branch.

    Fields mean what they do in `EMAG`, with the model's layers and window filled in, and `compat` as switches.
    """

    variant: Variant
    layers: tuple[int, ...]
    beta: float
    strength: float
    window: Window
    beta_time: BetaTime
    statistic: PickStatistic
    jitter: float
    compat: Compat
    maps: MapFormat = "auto"

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.layers

    @property
    def reads_text(self) -> bool:
        return self.variant == "text" or self.compat.reweighs

    @property
    def by_head(self) -> bool:
        # noise is drawn for all heads together; a map's statistic is not averaged over processes
        return self.variant == "query" and not self.jitter

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
        # k updates a step with beta^(1/k) each forget as much as one with beta
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

    def acts(self, index: int, sigmas: tuple[float, ...]) -> bool:
        return self.takes_uncond or self.applies(index, sigmas)

    def check(self, sigmas: tuple[float, ...]) -> None:
        """Raise `BadValue` where the window leaves no weak pass."""
        if not set(APPLIED) & set(self.window.phases(sigmas)):
            raise BadValue(f"the window of emag leaves no weak pass in {len(sigmas)} step(s): at least one step must be "
                           "averaged before one applies. Use more steps, or another window, e.g. "
                           "Window.progress(0, 0.2, 1)")

    def state_bytes(self, rows: int, image: int, text: int, heads: int, head_dim: int) -> int:
        """Bytes of the averages of `rows` rows of `image` + `text` tokens in the attention; a CPU's where maps is "auto"."""
        columns = {"query": head_dim, "map": image + text, "image": image, "text": text}[self.variant]
        kind = stored_map.format_of(self.maps, self.compat.ema_dtype, torch.device("cpu"))
        return len(self.blocks) * stored_map.size(kind, rows * heads * image, columns)
