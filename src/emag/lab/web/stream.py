"""Work in a thread of its own, told of as it goes: a run cannot yield, and a page wants to hear of it."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
LULL = 0.5
"""Seconds after which whoever listens is given the turn, so that it can go away."""


class Streamed(Generic[Result]):
    """What `work(tell)` tells, one item after another, and then its `result`; its error is raised where it is listened to.

    At first, and now and then whether or not there is news, it gives None.

    Whoever stops listening sets `stop`, and the work ends at its next step.
    """

    def __init__(self, work: Callable[[Callable[[Any], None]], Result], stop: threading.Event):
        self.work, self.stop = work, stop
        self.told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.result: Result
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __iter__(self) -> Iterator[Any]:
        yield None  # Gradio knows of work, and can end it, once something came of it
        self.thread.start()
        try:
            due = time.monotonic() + LULL
            while self.thread.is_alive() or not self.told.empty():
                with suppress(queue.Empty):
                    yield self.told.get(timeout=LULL)
                if time.monotonic() >= due:
                    yield None
                    due = time.monotonic() + LULL
        finally:
            self.stop.set()
            self.thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            self.result = self.work(self.told.put)
        except BaseException as error:
            self.error = error
