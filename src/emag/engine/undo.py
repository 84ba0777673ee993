"""Changes to live objects that are taken back, last in first out, whatever happens in between.

An interrupt (Ctrl-C) may strike between any two instructions. So every change is written down before it is made, every way
back is right also where its change was not made or was taken back already, and `undone` goes back twice: where the first
time is cut short, the second one ends it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

Made = TypeVar("Made")
_MISSING = object()


class Undo:
    """Ways back from changes. Each is called at least once, and must do nothing the second time."""

    def __init__(self) -> None:
        self._back: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def callback(self, back: Callable[..., Any], *args: Any) -> None:
        """Write down a way back. Say it before the change is made."""
        self._back.append((back, args))

    def close(self) -> None:
        """Take everything back, last in first out. Cut short by an interrupt, it can be called again."""
        while self._back:
            back, args = self._back[-1]
            back(*args)
            self._back.pop()


def undone(work: Callable[[Undo], Made]) -> Made:
    """What `work` returns, after the changes that it wrote down have been taken back."""
    undo = Undo()
    try:
        try:
            return work(undo)
        finally:
            undo.close()
    finally:
        undo.close()


def patch(undo: Undo, target: Any, name: str, value: Any) -> None:
    """Set `target.__dict__[name]`, past any `__setattr__`, until `undo` closes.

    What somebody else has put there in the meantime (an offload hook set anew, say) is left alone.
    """
    attributes = target.__dict__
    undo.callback(_restore, attributes, name, value, attributes.get(name, _MISSING))
    attributes[name] = value


class Scoped(TorchFunctionMode):
    """A torch function mode that may be found on the stack when it is over, and must do nothing then.

    torch takes a mode off while it serves, and puts it back: interrupted there, it may do so after we took it off.
    """

    over = False


def put_on(undo: Undo, mode: Scoped) -> None:
    """Let a torch function mode work in this thread, until `undo` closes."""
    while (stack := _get_current_function_mode_stack()) and getattr(stack[-1], "over", False):
        stack[-1].__exit__(None, None, None)
    undo.callback(_take_off, mode)
    mode.__enter__()


def _restore(attributes: dict[str, Any], name: str, value: Any, before: Any) -> None:
    if attributes.get(name, _MISSING) is not value:
        return
    if before is _MISSING:
        del attributes[name]
    else:
        attributes[name] = before


def _take_off(mode: Scoped) -> None:
    mode.over = True
    while any(held is mode for held in _get_current_function_mode_stack()):
        mode.__exit__(None, None, None)  # takes the one on top
