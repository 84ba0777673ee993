"""How far a training run is: its budget, its clock, its progress bar, and requests to stop."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ...errors import BadValue

COLUMNS = (TextColumn("step {task.fields[step]}"), BarColumn(), TaskProgressColumn(),
           TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:.0f} images/s"), TimeRemainingColumn())


@dataclass(frozen=True)
class Budget:
    """When a run ends: after so many steps or minutes of training, whichever is first (None: no limit)."""

    steps: int | None
    minutes: float | None

    def fraction(self, step: int, seconds: float) -> float:
        """Share of the budget used; 1 or more is the end."""
        shares = [step / self.steps if self.steps else 0.0]
        if self.minutes is not None:
            shares.append(seconds / (60 * self.minutes) if self.minutes else 1.0)
        return max(shares)


@dataclass
class Clock:
    """Seconds trained, earlier sessions included, and what is due every so many minutes."""

    before: float
    start: float = field(default_factory=time.monotonic)
    last: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def due(self, what: str, minutes: float) -> bool:
        """True once per `minutes` since the start or the last time it was due."""
        if time.monotonic() - self.last.get(what, self.start) < 60 * minutes:
            return False
        self.last[what] = time.monotonic()
        return True


class Counted(Protocol):
    """A training: steps made, and images (or rows) in one."""

    step: int

    @property
    def batch_size(self) -> int: ...


class Meter:
    """The progress bar: running mean of the loss, images per second, time left; refreshed once a second."""

    def __init__(self, trainer: Counted, progress: Progress):
        self.trainer, self.progress = trainer, progress
        self.mean: torch.Tensor | None = None
        self.time, self.step = time.monotonic(), trainer.step
        self.task = progress.add_task("", total=1.0, step=trainer.step, loss=float("nan"), speed=0.0)

    @property
    def loss(self) -> float:
        return float("nan") if self.mean is None else float(self.mean)

    def add(self, loss: torch.Tensor, used: float) -> None:
        """Count one step; raises `BadValue` where the loss is no longer a number."""
        self.mean = loss if self.mean is None else 0.98 * self.mean + 0.02 * loss
        if time.monotonic() - self.time > 1:
            self.show(used)

    def show(self, used: float) -> None:
        """Refresh the bar; `used` is the share of the budget."""
        if self.mean is not None and not math.isfinite(self.loss):
            raise BadValue(f"the loss is no longer a number at step {self.trainer.step}: start again with a lower --lr")
        now, step = time.monotonic(), self.trainer.step
        speed = (step - self.step) * self.trainer.batch_size / max(now - self.time, 1e-9)
        self.time, self.step = now, step
        self.progress.update(self.task, completed=min(1.0, used), step=step, loss=self.loss, speed=speed)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or a request to end has come. A step is never cut in two; a second signal ends at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
