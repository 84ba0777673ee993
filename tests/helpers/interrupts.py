"""Ctrl-C at a chosen instruction: what a signal can do to running Python code, made repeatable."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import emag

PACKAGE = str(Path(emag.__file__).parent)


class Interrupter:
    """Counts the instructions executed in chosen files, and raises KeyboardInterrupt before the one numbered `at`, once.

    only: parts of paths, one of which a file's must contain. opcodes: count bytecodes, else lines.
    """

    def __init__(self, at: int | None, only: tuple[str, ...] = (PACKAGE,), opcodes: bool = True):
        self.at, self.only, self.opcodes, self.seen = at, only, opcodes, 0

    def run(self, work: Callable[[], Any]) -> bool:
        """True where `work` was interrupted. Every other exception goes on."""
        before = sys.gettrace()
        sys.settrace(self._entered)
        try:
            work()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    def _entered(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not any(part in frame.f_code.co_filename for part in self.only):
            return None
        frame.f_trace_opcodes = self.opcodes
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == ("opcode" if self.opcodes else "line"):
            self.seen += 1
            if self.seen == self.at:
                raise KeyboardInterrupt
        return self._step
