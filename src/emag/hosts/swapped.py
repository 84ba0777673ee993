"""The class of a pipeline, swapped for one of the same name that hands the calls of this one object to us.

Whatever is made of the object in the meantime is of its own class: copies, pickles, and `pipe.__class__(**components)`.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

from ..engine.undo import Undo

StandIn = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""What stands in for a call of the pipeline: (its own `__call__`, pipeline, args, kwargs) -> its result."""

_set_class = vars(object)["__class__"].__set__  # past the property that tells others the class from before


def swap(pipe: Any, call: StandIn, undo: Undo, open: bool) -> None:
    """Let `call` stand in for the calls of `pipe`, until `undo` closes. open: it is the inside of a `with` block."""
    found = weakref.ref(pipe)
    made = _class(plain_class(pipe), found, call, open)
    undo.callback(_swap_back, found, made)
    _set_class(pipe, made)


def plain_class(pipe: Any) -> type:
    """The class of a pipeline, before any swap."""
    return getattr(type(pipe), "_emag_plain", type(pipe))


def is_open(pipe: Any) -> bool:
    """True inside a `with emag.guide(pipe, ...)` block."""
    return getattr(type(pipe), "_emag_open", False)


def _swap_back(found: "weakref.ref[Any]", made: type) -> None:
    pipe = found()
    if pipe is not None and type(pipe) is made:
        _set_class(pipe, plain_class(pipe))


def _class(cls: type, found: "weakref.ref[Any]", call: StandIn, open: bool) -> type:
    original, reduced = cls.__call__, getattr(cls, "__reduce_ex__")  # noqa: B009  (its type says less than it takes)

    @functools.wraps(original)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not found():
            return original(self, *args, **kwargs)
        return call(original, self, args, kwargs)

    def __new__(_: type, *args: Any, **kwargs: Any) -> Any:
        return cls(*args, **kwargs)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        make, arguments, *state = reduced(self, protocol)
        return (make, tuple(cls if part is made else part for part in arguments), *state)

    body = {"__call__": __call__, "__new__": __new__, "__reduce_ex__": __reduce_ex__,
            "__class__": property(lambda self: cls, _set_class), "_emag_plain": cls, "_emag_open": open,
            "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    made: type = type(cls)(cls.__name__, (cls,), body)
    return made
