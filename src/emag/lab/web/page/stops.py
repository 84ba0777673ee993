"""Which run belongs to which window, so that a button or a closed window ends it."""

import threading
from typing import Any

from gradio import Request

STOPPED = "Stopped: the network is as it was before."


class Stops:
    """An event for each window's run, by the name that Gradio gives the window."""

    def __init__(self) -> None:
        self.held: dict[str, threading.Event] = {}

    def begin(self, request: Any) -> threading.Event:
        """The event of a new run; an earlier one of the same window is ended."""
        self.end(request)
        stop = self.held[self.name(request)] = threading.Event()
        return stop

    def end(self, request: Any) -> bool:
        """End the run of a window; False where it has none."""
        stop = self.held.pop(self.name(request), None)
        if stop is not None:
            stop.set()
        return stop is not None

    def ended(self, request: Request) -> str:
        """The answer of the button."""
        return STOPPED if self.end(request) else "Nothing is running in this window."

    def gone(self, request: Request) -> None:
        """A window was closed: its run ends."""
        self.end(request)

    @staticmethod
    def name(request: Any) -> str:
        """The window that a request comes from."""
        return str(getattr(request, "session_hash", None) or "")
