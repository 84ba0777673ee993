"""A `with` block around calls of a pipeline: begun, left and forgotten."""

import sys
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..engine.undo import Undo
from ..errors import Busy
from .swapped import is_open, plain_class, swap

Self = TypeVar("Self", bound="WithBlock")


class _Exit:
    """`__exit__` of a block. Python looks it up as a `with` statement begins, and that statement alone holds what it finds.

    Where an interrupt keeps the statement from calling it, its end takes the guidance off.
    """

    def __get__(self, block: "WithBlock | None", owner: type) -> Any:
        if block is None:
            return _leave  # contextlib asks the class
        leave, undo = partial(_leave, block), Undo()
        undo.callback(block._asleep.close)
        block._next, block._watch = undo, weakref.ref(leave, partial(_abandoned, undo))
        return leave


class WithBlock:
    """Base of a handle for a `with` block in which its `call` stands in for the calls of a pipeline.

    A handle that is never entered does nothing, which is seldom meant: the pipeline's next call, or the end of the handle,
    says so.
    """

    _undo: Undo | None = None  # of the block that is open, or was the latest; _next: of the one about to begin
    _next: Undo | None = None
    _watch: "weakref.ref[Any] | None" = None

    def __init__(self, pipe: Any):
        self._pipe, self._asleep = pipe, Undo()
        self._end = weakref.finalize(self, _forgotten, self._asleep, plain_class(pipe).__name__, _place())
        try:
            swap(pipe, partial(_plain, self._end), self._asleep, open=False)
        except BaseException:
            self._wake()
            raise

    def __enter__(self: Self) -> Self:
        self._wake()
        check_free(self._pipe)
        self._undo, self._next = self._next or Undo(), None
        swap(self._pipe, self.call, self._undo, open=True)
        return self

    if TYPE_CHECKING:
        def __exit__(self, *error: object) -> None: ...
    else:
        __exit__ = _Exit()

    def call(self, original: Callable[..., Any], pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of the pipeline inside the block; `original` is its own."""
        raise NotImplementedError

    def _wake(self) -> None:
        self._end.detach()
        self._asleep.close()


def check_free(pipe: Any) -> None:
    """Raise `Busy` inside the block of another guidance."""
    if is_open(pipe):
        raise Busy(f"this {plain_class(pipe).__name__} is already inside an emag.guide block; put all rules into one")


def _leave(block: WithBlock, *error: Any) -> None:
    if block._undo is not None:
        block._undo.close()
    block._watch = None


def _abandoned(undo: Undo, _: Any) -> None:
    undo.close()


def _plain(end: Any, original: Any, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    end()
    return original(pipe, *args, **kwargs)


def _forgotten(asleep: Undo, name: str, place: tuple[str, int]) -> None:
    asleep.close()
    warnings.warn_explicit(f"emag.guide({name}, ...) was never entered, so it guided nothing: write `with emag.guide(pipe, "
                           "...) as run:` around the call of the pipeline", RuntimeWarning, *place)


def _place() -> tuple[str, int]:
    """File and line of who called us from outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("emag."):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
