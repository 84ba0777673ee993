"""How far a command is: a bar in a terminal, now and then a line where the output goes elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from .screen import err, say

OnStep = Callable[[int, int], None]
LULL = 15.0
"""Seconds between two lines."""


class Lines:
    """Progress in words, at most a line in `LULL` seconds, and none for what is done before the first."""

    def __init__(self, title: str, total: int, unit: str, before: int = 0, clock: Callable[[], float] = time.monotonic):
        """before: how many were there at the start, and so say nothing of the speed."""
        self.title, self.total, self.unit, self.before, self.clock = title, total, unit, before, clock
        self.start = self.latest = clock()

    def at(self, done: float) -> None:
        """Say how far it is, where it is time to."""
        now = self.clock()
        if now - self.latest >= LULL and done > self.before:
            self.latest = now
            left = (now - self.start) * (self.total - done) / (done - self.before)
            say(f"{self.title}: {int(done)} of {self.total} {self.unit}, about {duration(left)} left")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress(total: int, title: str) -> Iterator[tuple[OnStep, Callable[[int], None]]]:
    """A bar over `total` calls of the pipeline: a callback for steps, and one for finished calls."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("calls"),
               TextColumn("{task.fields[step]}", markup=False), TimeRemainingColumn())
    lines = None if err.is_terminal else Lines(title, total, "calls")
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(title, total=total, step="", calls=0)

        def on_step(done: int, count: int) -> None:
            reached = int(bar.tasks[0].fields["calls"]) + done / count
            bar.update(task, completed=reached, step=f"step {done}/{count}")
            if lines:
                lines.at(reached)

        def finished(calls: int) -> None:
            bar.update(task, completed=calls, calls=calls)

        yield on_step, finished


@contextmanager
def images_bar() -> Iterator[Callable[[int, int], Callable[[int], None]]]:
    """A bar over images, for a run that may have some already: called with those, and all, it gives a callback for more."""
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, speed_estimate_period=300, disable=not err.is_terminal) as bar:

        def begun(done: int, total: int) -> Callable[[int], None]:
            task = bar.add_task("images", total=total, completed=done)
            lines = None if err.is_terminal else Lines("making", total, "images", done)

            def more(images: int) -> None:
                bar.advance(task, images)
                if lines:
                    lines.at(bar.tasks[-1].completed)

            return more

        yield begun


class _Speed(ProgressColumn):
    """Images per second of this command; those of an earlier one do not count."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "")
