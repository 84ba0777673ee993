"""A network's blocks with a run's taps in them: skipped below the resume point, recorded there, attention tapped.

Streams are recorded and put in around a block's call, outside the hooks of its user, who see true evaluations only.
A compiled block or network goes straight to `forward`; there it happens inside that.

Code that `torch.compile` may trace reads one integer, `mode`; what records or taps sits behind `torch.compiler.disable`.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ..backbones.read import Block, Network
from ..errors import Busy, NoEffect
from .seam import Handler, Seam, native_backend
from .undo import patch

CLEAN = 0


class Blocks:
    """Wrappers for one network, made once per guidance so that compiled graphs stay valid, installed for each run.

    mode: CLEAN, or k + 1 in a weak pass that resumes at block k. handlers: what to do with the attention call of a
    block in the current pass. fired: tapped calls seen, by block. recorded: streams that entered each resume block.
    thread: the one that evaluates the network for the run just now. around: k + 1 inside the call of resume block k.
    """

    def __init__(self, network: Network, resume_at: Iterable[int], tapped: Iterable[int]):
        self.network = network
        self.resume_at, self.tapped = frozenset(resume_at), frozenset(tapped)
        self.mode = CLEAN
        self.rows: slice | None = None  # rows of the recorded streams that the weak pass uses, None for all
        self.handlers: dict[int, Handler] = {}
        self.fired: dict[int, int] = {}
        self.resumed = self.around = 0
        self.thread: int | None = None
        self.recorded: dict[int, dict[str, torch.Tensor]] = {}
        self._image: dict[int, tuple[slice, int]] = {}
        self._wrappers = [w for block in network.blocks for w in self._wrap(block)]

    def install(self, undo: ExitStack) -> None:
        """Put the wrappers in, until `undo` closes."""
        for module, name, original, wrapper in self._wrappers:
            if getattr(module, name) != original:
                raise RuntimeError("the network's blocks changed since the guidance was attached")
            patch(undo, module, name, wrapper)

    def fits(self, network: Network) -> bool:
        """True where the wrappers can be installed again: same modules, same forwards."""
        return network.module is self.network.module and network.blocks == self.network.blocks and all(
            getattr(module, name) == original for module, name, original, _ in self._wrappers)

    @contextmanager
    def serving(self, mode: int, rows: slice | None, handlers: dict[int, Handler]) -> Iterator[None]:
        """One pass of the run through the network."""
        self.mode, self.rows, self.handlers, self.thread = mode, rows, handlers, threading.get_ident()
        try:
            yield
        finally:
            self.mode, self.rows, self.handlers, self.thread = CLEAN, None, {}, None

    def clear(self) -> None:
        """Drop everything a run left."""
        self.resumed = 0
        for held in (self.fired, self.recorded, self._image):
            held.clear()

    def _wrap(self, block: Block) -> list[tuple[torch.nn.Module, str, Any, Any]]:
        wraps: list[tuple[torch.nn.Module, str, Any, Any]] = []
        call, forward = block.module._call_impl, block.module.forward
        if block.index <= max(self.resume_at, default=-1):
            around = self._around if block.index in self.resume_at else self._skipping
            wraps.append((block.module, "_call_impl", call, around(block, call)))
        if block.index in self.resume_at | self.tapped:
            wraps.append((block.module, "forward", forward, self._entered(block, forward)))
        elif block.index < max(self.resume_at, default=-1):
            wraps.append((block.module, "forward", forward, self._skipping(block, forward)))
        if block.index in self.tapped:
            wraps.append((block.attention, "forward", block.attention.forward, self._tapping(block)))
        return wraps

    def _skipping(self, block: Block, original: Callable[..., Any]) -> Callable[..., Any]:
        reached = block.index + 1

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.mode > reached:
                return block.identity(args, kwargs)
            return original(*args, **kwargs)

        return forward

    def _around(self, block: Block, original: Callable[..., Any]) -> Callable[..., Any]:
        reached, exchange = block.index + 1, self._exchange

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.mode > reached:
                return block.identity(args, kwargs)
            args, kwargs = exchange(block, args, kwargs)
            self.around = reached
            try:
                return original(*args, **kwargs)
            finally:
                self.around = 0

        return call

    def _entered(self, block: Block, original: Callable[..., Any]) -> Callable[..., Any]:
        reached, enter = block.index + 1, self._enter

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.mode > reached:
                return block.identity(args, kwargs)
            args, kwargs = enter(block, args, kwargs)
            return original(*args, **kwargs)

        return forward

    def _tapping(self, block: Block) -> Callable[..., Any]:
        original, tap = block.attention.forward, self._tap

        def forward(*args: Any, **kwargs: Any) -> Any:
            return tap(block, original, args, kwargs)

        return forward

    @torch.compiler.disable
    def _enter(self, block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note where the image tokens are, and exchange streams if that is not done yet."""
        if self.thread != threading.get_ident():
            raise Busy(f"this {self.network.backbone.name} serves a guided run; wait for its end")
        if block.index in self.resume_at and self.around != block.index + 1:
            args, kwargs = self._exchange(block, args, kwargs)
        if block.index in self.tapped:
            self._image[block.index] = image_tokens(block, block.streams(args, kwargs))
        return args, kwargs

    @torch.compiler.disable
    def _exchange(self, block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record the streams that enter a resume block, or put the recorded ones in."""
        if self.mode == CLEAN:
            self.recorded[block.index] = block.streams(args, kwargs)
        elif self.mode == block.index + 1:
            self.resumed += 1
            held = self.recorded[block.index]
            rows = slice(None) if self.rows is None else self.rows
            return block.with_streams(args, kwargs, {name: held[name][rows] for name in held})
        return args, kwargs

    @torch.compiler.disable
    def _tap(self, block: Block, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = self.handlers.get(block.index)
        if handler is None:
            return original(*args, **kwargs)
        image, length = self._image[block.index]
        with native_backend(block.attention), Seam(length, image, handler) as seam:
            out = original(*args, **kwargs)
        if seam.fired != 1:
            raise NoEffect(_not_seen(block, seam.fired, length))
        self.fired[block.index] = self.fired.get(block.index, 0) + 1
        return out


def image_tokens(block: Block, streams: dict[str, torch.Tensor]) -> tuple[slice, int]:
    """Where the image tokens sit in the attention's sequence, and its length."""
    image = streams[block.stack.streams[0]].shape[1]
    if block.stack.tokens == ("image",):
        return slice(0, image), image
    text = streams[block.stack.streams[1]].shape[1]
    start = 0 if block.stack.tokens[0] == "image" else text
    return slice(start, start + image), image + text


def _not_seen(block: Block, fired: int, length: int) -> str:
    processor = type(getattr(block.attention, "processor", block.attention)).__name__
    return (f"block {block.index}: {processor} made {fired} calls of scaled_dot_product_attention with {length} queries, "
            "expected 1. Use the model's default attention processor (or one that calls it), or leave this guidance off.")
