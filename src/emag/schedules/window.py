"""When a rule acts: windows over the steps of one run."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..core import FiniteFields
from ..errors import BadValue

Phase = Literal["off", "watch", "apply", "hold"]
OBSERVED, APPLIED = ("watch", "apply"), ("apply", "hold")
WindowUnit = Literal["published", "index", "progress", "sigma"]


def k2idx(k: float, count: int, base: int = 250) -> int:
    """Index `k` of a `base`-step schedule carried to `count` steps, with the published half-to-even rounding."""
    return max(0, min(count - 1, round(k * (count - 1) / base)))


@dataclass(frozen=True)
class Window(FiniteFields):
    """When `EMAG` acts: at which steps an average is kept up, and at which a weak pass runs as well.

    A step is "off", or it averages ("watch"), or it averages and runs a weak pass ("apply"), or it runs one with an
    average that stays as it was ("hold"). The first watched step never applies: there is nothing to apply yet. Give a
    window by one of its constructors, `Window.progress`, `Window.index`, `Window.sigma` or `Window.published`. In all
    units but "progress" the numbers fall along the run, as the noise does: start is the largest.

    Args:
        start: where averaging begins, a number in `unit`.
        delta: from there to where the weak pass begins, in `unit`; at least 0.
        stop: where both end, in `unit`.
        unit: what start, delta and stop mean. With r the reversed index (N-1 is the noisiest step): "published": k2idx
            of the three on a `base`-step schedule, then as "index". "index": watch iff stop <= r <= start, apply iff
            stop <= r <= start - delta (EMAG, arXiv 2512.17303). "progress": fractions p = i/N of the run: watch iff
            start <= p < stop, apply iff start + delta <= p < stop. "sigma": noise levels: watch iff
            stop <= sigma <= start, apply iff stop <= sigma <= start - delta.
        base: length of the schedule that "published" counts on, at least 1; the other units have none.
        hold: after stop the average stays as it was, and goes on being applied ("hold"), as in part of the authors'
            DiT code. Refused where no step comes after stop.

    >>> import emag
    >>> emag.Window.progress(0, 0.25, 0.75).phases((1.0, 0.75, 0.5, 0.25))  # noise levels of a run of 4 steps
    ('watch', 'apply', 'apply', 'off')
    >>> emag.Window.index(3, 1, 1, hold=True).phases((1.0, 0.75, 0.5, 0.25))
    ('watch', 'apply', 'apply', 'hold')
    """

    start: float = 250
    delta: float = 50
    stop: float = 50
    unit: WindowUnit = "published"
    base: int = 250
    hold: bool = False

    def __post_init__(self) -> None:
        for name in ("start", "delta", "stop"):  # one spelling in every recipe
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.delta < 0 or self.base < 1:
            raise BadValue(f"a window needs delta >= 0 and base >= 1, got delta={self.delta}, base={self.base}")
        if self.base != 250 and self.unit != "published":
            raise BadValue(f"a window's base is for unit 'published'; {self.unit!r} has none, leave it out")
        if self.hold and (self.stop >= 1 if self.unit == "progress" else self.stop <= 0):
            raise BadValue(f"hold is about the steps after stop, and after {self.stop:g} in {self.unit!r} there are none")

    @classmethod
    def published(cls, start: float = 250, delta: float = 50, stop: float = 50, base: int = 250,
                  hold: bool = False) -> "Window":
        """Reversed indices of a `base`-step schedule, scaled to the run (the default, and the authors' SD3 form)."""
        return cls(start, delta, stop, "published", base, hold)

    @classmethod
    def index(cls, start: int, delta: int, stop: int, hold: bool = False) -> "Window":
        """Reversed step indices taken as they are (the authors' DiT form)."""
        return cls(start, delta, stop, "index", hold=hold)

    @classmethod
    def progress(cls, start: float = 0.0, delta: float = 0.18, stop: float = 0.82, hold: bool = False) -> "Window":
        """Fractions of the run, 0 at the noisiest step."""
        return cls(start, delta, stop, "progress", hold=hold)

    @classmethod
    def sigma(cls, start: float, delta: float, stop: float, hold: bool = False) -> "Window":
        """Noise levels, from `start` down to `stop`."""
        return cls(start, delta, stop, "sigma", hold=hold)

    def phases(self, sigmas: tuple[float, ...]) -> tuple[Phase, ...]:
        """Phase of each distinct timestep, noisiest first. The first watched step never applies: nothing to apply."""
        return _phases(self, sigmas)


@lru_cache(maxsize=256)
def _phases(window: Window, sigmas: tuple[float, ...]) -> tuple[Phase, ...]:
    phases: list[Phase] = [_phase(window, i, sigmas) for i in range(len(sigmas))]
    first = next((i for i, phase in enumerate(phases) if phase in OBSERVED), None)
    if first is None:  # nothing was averaged that could be held
        phases = ["off" for _ in phases]
    else:
        phases[first] = "watch"
    return tuple(phases)


def _phase(window: Window, i: int, sigmas: tuple[float, ...]) -> Phase:
    """The phase of step i by `window` alone."""
    at, start, apply, stop = _falling(window, i, sigmas)
    over = at <= stop if window.unit == "progress" else at < stop  # the end of a fraction of the run is not in it
    if at > start or (over and not (window.hold and at <= apply)):
        return "off"
    return "hold" if over else "apply" if at <= apply else "watch"


def _falling(window: Window, i: int, sigmas: tuple[float, ...]) -> tuple[float, float, float, float]:
    """Where step i is, and where the window starts, applies and stops, on a scale that falls along the run."""
    count, start, delta, stop = len(sigmas), window.start, window.delta, window.stop
    # progress alone grows along the run: negated, it falls as the others do
    if window.unit == "progress":
        return -i / count, -start, -(start + delta), -stop
    if window.unit == "sigma":
        return sigmas[i], start, start - delta, stop
    if window.unit == "published":
        start, delta, stop = (k2idx(k, count, window.base) for k in (start, delta, stop))
    return count - 1 - i, start, start - delta, stop


def equal_time(beta: float, count: int, base: int = 250) -> float:
    """Decay per step that averages over the same span of time at `count` steps as `beta` does at `base` steps."""
    return beta ** (base / count)
