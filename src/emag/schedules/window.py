"""When a rule acts: windows over the steps of one run."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..errors import BadValue
from ..finite import Finite

Phase = Literal["off", "watch", "apply"]
UNITS = ("published", "index", "progress", "sigma")


def k2idx(k: float, count: int, base: int = 250) -> int:
    """Index `k` of a `base`-step schedule carried to `count` steps, with the published half-to-even rounding."""
    return max(0, min(count - 1, round(k * (count - 1) / base)))


@dataclass(frozen=True)
class Window(Finite):
    """Steps on which an average is kept up ("watch") and on which a weak pass runs ("apply").

    `unit` says what start, delta and stop mean. With r the reversed index (N-1 is the noisiest step):
    "published": k2idx of the three on a `base`-step schedule, then as "index";
    "index": watch iff stop <= r <= start, apply iff stop <= r <= start - delta (EMAG, arXiv 2512.17303);
    "progress": fractions p = i/N of the run: watch iff start <= p < stop, apply iff start + delta <= p < stop;
    "sigma": noise levels: watch iff stop <= sigma <= start, apply iff stop <= sigma <= start - delta.
    """

    start: float = 250
    delta: float = 50
    stop: float = 50
    unit: str = "published"
    base: int = 250

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise BadValue(f"window unit {self.unit!r} is unknown; use one of {', '.join(UNITS)}")
        for name in ("start", "delta", "stop"):  # one spelling in every recipe
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.delta < 0 or self.base < 1:
            raise BadValue(f"a window needs delta >= 0 and base >= 1, got delta={self.delta}, base={self.base}")

    @classmethod
    def published(cls, start: float = 250, delta: float = 50, stop: float = 50, base: int = 250) -> "Window":
        """Reversed indices of a `base`-step schedule, scaled to the run (the default, and the authors' SD3 form)."""
        return cls(start, delta, stop, "published", base)

    @classmethod
    def index(cls, start: int, delta: int, stop: int) -> "Window":
        """Reversed step indices taken as they are (the authors' DiT form)."""
        return cls(start, delta, stop, "index")

    @classmethod
    def progress(cls, start: float = 0.0, delta: float = 0.18, stop: float = 0.82) -> "Window":
        """Fractions of the run, 0 at the noisiest step."""
        return cls(start, delta, stop, "progress")

    @classmethod
    def sigma(cls, start: float, delta: float, stop: float) -> "Window":
        """Noise levels, from `start` down to `stop`."""
        return cls(start, delta, stop, "sigma")

    def phases(self, sigmas: tuple[float, ...]) -> tuple[Phase, ...]:
        """Phase of each distinct timestep, noisiest first. The first watched step never applies: nothing to apply."""
        return _phases(self, sigmas)


@lru_cache(maxsize=256)
def _phases(window: Window, sigmas: tuple[float, ...]) -> tuple[Phase, ...]:
    phases = [_phase(window, i, sigmas) for i in range(len(sigmas))]
    for i, phase in enumerate(phases):
        if phase != "off":
            phases[i] = "watch"
            break
    return tuple(phases)


def _phase(window: Window, i: int, sigmas: tuple[float, ...]) -> Phase:
    count, start, stop = len(sigmas), window.start, window.stop
    if window.unit == "progress":
        p = i / count
        return "off" if not start <= p < stop else "apply" if p >= start + window.delta else "watch"
    if window.unit == "sigma":
        at, apply = sigmas[i], start - window.delta
    else:
        at, delta = count - 1 - i, window.delta
        if window.unit == "published":
            start, delta, stop = (k2idx(k, count, window.base) for k in (start, delta, stop))
        apply = start - delta
    return "off" if not stop <= at <= start else "apply" if at <= apply else "watch"


def equal_time(beta: float, count: int, base: int = 250) -> float:
    """Decay per step that averages over the same span of time at `count` steps as `beta` does at `base` steps."""
    return beta ** (base / count)
