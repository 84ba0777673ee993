"""Work in a thread of its own, told of as it goes: a run cannot yield, and a page wants to hear of it."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
LULL = 0.2
"""Seconds after which whoever listens is given the turn, so that it can go away."""


class Streamed(Generic[Result]):
    """What `work(tell)` tells, one item after another, and then its `result`; its error is raised where it is listened to.

    Whoever stops listening sets `stop`, and the work ends at its next step.
    """

    def __init__(self, work: Callable[[Callable[[Any], None]], Result], stop: threading.Event):
        self.work, self.stop = work, stop
        self.told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.result: Result
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __iter__(self) -> Iterator[Any]:
        self.thread.start()
        try:
            while self.thread.is_alive() or not self.told.empty():
                try:
                    yield self.told.get(timeout=LULL)
                except queue.Empty:
                    continue
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
