"""EMAG inside the unconditional rows: their attention is its own running average, in the pass that CFG makes anyway."""

from dataclasses import dataclass
from types import MappingProxyType

import torch

from ...core import Rows, Rule, Sdpa
from ...maths.attention import Attention
from ...maths.streams import Streams
from ...schedules import APPLIED, Window
from ..common.push import layers_of
from .averaging import Averaging, BetaTime, Variant, check_averaging
from .compat import Compat
from .statistics import PickStatistic
from .tracker import Tracker

LAGGED = Compat(stat_lag=1)
"""A pass that averages and applies at once picks by the statistic of the step before."""


@dataclass(frozen=True)
class InNull(Averaging):
    """Averages of the unconditional rows, put in their place in the pass in which they are taken."""

    @property
    def strong(self) -> bool:
        return True

    @property
    def skippable(self) -> bool:
        return False

    @property
    def sees_null(self) -> bool:
        return True

    def runs(self, index: int, sigmas: tuple[float, ...]) -> bool:
        return False

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> Tracker:
        return NullTracker(self, self.window.phases(sigmas), streams)


@dataclass
class NullTracker(Tracker):
    """Averages and replaces in one call of the attention; the pick is that of the step before."""

    def begin(self, index: int) -> None:
        super().begin(index)
        if self.phase in APPLIED and not set(self.spec.blocks) <= set(self.before):
            self.phase = "watch"  # nothing was averaged before this step
        self.choose()

    @property
    def watches(self) -> bool:
        return False  # it sees the call where it replaces it

    def strengthen(self, block: int, call: Attention, sdpa: Sdpa, rows: Rows) -> torch.Tensor:
        if rows.uncond is None or self.phase == "off":
            return sdpa(call.q)
        null, applied = call.rows(rows.uncond), self.phase in APPLIED
        # looked at before E takes the live call in: the first map would be its own average
        if self.observes:
            self._observe(block, null)
        if not applied:
            return sdpa(call.q)
        within = _Within(call, sdpa, rows.uncond)
        out, differs = self.averages[block].output(null, within, self._chosen(block, null))
        self.note(differs)
        return within.put(out)


@dataclass
class _Within:
    """The live attention of some rows of a call: the other rows go through it unchanged, so it is computed once."""

    call: Attention
    sdpa: Sdpa
    rows: slice
    whole: torch.Tensor | None = None

    def __call__(self, q: torch.Tensor) -> torch.Tensor:
        queries = self.call.q.clone()
        queries[self.rows] = q
        self.whole = self.sdpa(queries)
        return self.whole[self.rows].clone()

    def put(self, out: torch.Tensor) -> torch.Tensor:
        """The attention of all rows, with `out` in the place of these."""
        assert self.whole is not None
        whole = self.whole.clone()
        whole[self.rows] = out
        return whole


@dataclass(frozen=True)
class EMAGNull(Rule):
    """EMAG inside the unconditional rows: no evaluation beyond those of CFG.

    In the pass that evaluates them, one block's attention of the unconditional rows is its own running average over
    the steps. So CFG (or whatever combines) pushes away from a prediction that is both without the prompt and weak:
    u + s (c - u) with u made weak. It is not in the paper: it asks how much of `EMAG` can be had in the pass that CFG
    makes anyway. What it gave is in docs/results.

    The block is picked per image by the statistic of the step before, ties to the first; later blocks average what
    the pick left them. Without unconditional rows it is refused.

    Args:
        strength: share of the average in what the unconditional rows use, in [0, 1]; 0 is off.
        variant: what is averaged, as in `EMAG`.
        layers: candidate blocks, by number; None takes those of `EMAG` on the model, "auto" the middle block.
        beta: decay of the average per step, in [0, 1], as in `EMAG`.
        window: steps that average and steps that apply; None takes that of `EMAG` on the model.
        beta_time: "step" or "equal-time", as in `EMAG`.
        statistic: how the block is picked, as in `EMAG`; "fixed": all listed blocks at once.

    >>> import emag
    >>> emag.EMAGNull(0).neutral, emag.EMAGNull().equation
    (True, "u's attention <- E, its running average")
    """

    strength: float = 1.0
    variant: Variant = "query"
    layers: tuple[int, ...] | None = None
    beta: float = 0.988
    window: Window | None = None
    beta_time: BetaTime = "step"
    statistic: PickStatistic = "auto"

    name = "emag-null"
    kind = "attention"
    paper = "arXiv 2512.17303"
    equation = "u's attention <- E, its running average"
    cost = "none: it works in the pass that evaluates the unconditional rows"
    required = MappingProxyType({"window": "window=emag.Window.progress(0, 0.2, 1)"})
    of_null = True
    defaults_of = "emag"

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", layers_of(self.name, self.layers))
        check_averaging(self, beta=1, strength=1)

    @property
    def neutral(self) -> bool:
        return self.strength == 0 or self.beta == 0  # the average with beta 0 is the live attention

    @property
    def perturbation(self) -> InNull:
        """What it does inside, once layers and window are known."""
        assert self.layers is not None and self.window is not None
        return InNull(self.variant, self.layers, self.beta, self.strength, self.window, self.beta_time, self.statistic,
                      0.0, LAGGED)

    @property
    def weak(self) -> tuple[InNull, ...]:
        return (self.perturbation,)
