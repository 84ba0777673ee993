"""A network's blocks with a run's taps in them: skipped below the resume point, recorded there, changed, attention tapped.

Streams are recorded and put in around a block's call, outside the hooks of its user, who see true evaluations only.
A compiled block or network goes straight to `forward`; there it happens inside that.

Code that `torch.compile` may trace reads two integers, `mode` and `changing`; what records, changes or taps sits behind
`torch.compiler.disable`.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..core import Tokens
from ..errors import Busy, Unsupported
from .attending import Attending
from .block import Block
from .network import Network
from .split import split_of
from .taps import Taps
from .undo import Undo, patch
from .wanted import CLEAN, Pass, Wanted

X = "hidden_states"  # what states call the stream of the image
Call = Callable[..., Any]


class Blocks:
    """Wrappers for one network, made once per guidance so that compiled graphs stay valid, installed for each run.

    now: the current pass; mode, changing: of it, for traced code. recorded: streams that entered each resume block. changed:
    calls of changed blocks, by block. thread: the one that evaluates the network for the run just now. around: k + 1
    inside the call of block k. kept: what blocks returned on the clean pass, where later ones read that.
    """

    def __init__(self, network: Network, wanted: Wanted):
        self.network, self.wanted = network, wanted
        self.taps, self.attending = Taps(network, wanted.tapped), Attending(network, wanted.around)
        self.now = Pass()
        self.mode, self.changing = CLEAN, 0
        self.resumed = self.around = 0
        self.thread: int | None = None
        self.changed: dict[int, int] = {}
        self.recorded: dict[int, Tokens] = {}
        self.kept: dict[int, Tokens] = {}
        inside = self.taps.wrappers + self.attending.wrappers
        self._wrappers = [w for block in network.blocks for w in self._wrap(block)] + inside

    def install(self, undo: Undo) -> None:
        """Put the wrappers in, until `undo` closes."""
        self.taps.split = split_of(self.network)
        for module, name, original, wrapper in self._wrappers:
            if getattr(module, name) != original:
                raise Unsupported(f"a block of this {self.network.backbone.name} has another forward than when its run "
                                  "began: put caches and wrappers on before the run, or take them off")
            patch(undo, module, name, wrapper)

    def fits(self, network: Network) -> bool:
        """True where the wrappers can be installed again: same modules, same forwards."""
        return network.module is self.network.module and network.blocks == self.network.blocks and all(
            getattr(module, name) == original for module, name, original, _ in self._wrappers)

    @contextmanager
    def serving(self, now: Pass) -> Iterator[None]:
        """One pass of the run through the network."""
        self.now, self.mode, self.changing = now, now.mode, int(bool(now.changers))
        self.taps.handlers, self.taps.looks, self.taps.packing = now.taps, now.looks, now.frames or now.packing
        self.attending.handlers = now.around
        self.thread = threading.get_ident()
        try:
            yield
        finally:
            self._rest()

    def _rest(self) -> None:
        self.now, self.mode, self.changing = Pass(), CLEAN, 0
        self.taps.handlers, self.taps.looks, self.taps.packing, self.thread = {}, {}, None, None
        self.attending.handlers = {}

    def clear(self) -> None:
        """Drop everything a run left, also one that was interrupted."""
        self._rest()
        self.resumed = self.around = 0
        self.changed.clear()
        self.recorded.clear()
        self.kept.clear()
        self.taps.clear()

    def _wrap(self, block: Block) -> list[tuple[torch.nn.Module, str, Any, Any]]:
        wraps: list[tuple[torch.nn.Module, str, Any, Any]] = []
        call, forward, at, wanted = block.module._call_impl, block.module.forward, block.index, self.wanted
        tapped = at in {index for index, _ in wanted.tapped}
        # `_call_impl` is what `module(...)` runs, hooks and all: around it the user's hooks are inside, and a skipped block
        # calls none of them. Compiled code goes past it to `forward`, which has a wrapper too, idle the second time
        if at in wanted.resume | wanted.changed:
            wraps.append((block.module, "_call_impl", call, self._around(block, call)))
        elif at < wanted.last:
            wraps.append((block.module, "_call_impl", call, self._skipping(block, call)))
        if at in wanted.resume | wanted.changed or tapped:
            inside = self.taps.opened(block, forward) if tapped else forward
            wraps.append((block.module, "forward", forward, self._entered(block, inside)))
        elif at < wanted.last:
            wraps.append((block.module, "forward", forward, self._skipping(block, forward)))
        return wraps

    def _skipping(self, block: Block, original: Call) -> Call:
        reached, passed, original = block.index + 1, self._passed(block), self._keeping(block, original)

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.mode > reached:
                return passed(args, kwargs)
            return original(*args, **kwargs)

        return forward

    def _around(self, block: Block, original: Call) -> Call:
        """The call of a block from outside its user's hooks; never traced."""
        reached, exchange, passed = block.index + 1, self._exchange, self._passed(block)
        original = self._keeping(block, original)

        def inside(*args: Any, **kwargs: Any) -> Any:
            self.around = reached
            try:
                return original(*args, **kwargs)
            finally:
                self.around = 0

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.mode > reached:
                return passed(args, kwargs)
            args, kwargs = exchange(block, args, kwargs)
            return self._change(block, inside, args, kwargs) if self.changing else inside(*args, **kwargs)

        return call

    def _entered(self, block: Block, original: Call) -> Call:
        reached, enter, change, passed = block.index + 1, self._enter, self._change, self._passed(block)
        original = self._keeping(block, original)

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.mode > reached:
                return passed(args, kwargs)
            args, kwargs = enter(block, args, kwargs)
            if self.changing and self.around != reached:
                return change(block, original, args, kwargs)
            return original(*args, **kwargs)

        return forward

    def _keeps(self, block: Block) -> bool:
        return self.network.backbone.skips and block.index < self.wanted.last

    def _passed(self, block: Block) -> Call:
        """What a skipped block hands on: its streams or, where later blocks read it, what it returned on the clean pass."""
        @torch.compiler.disable
        def kept(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return block.as_returned(self._copied(self._held(self.kept[block.index])))

        return kept if self._keeps(block) else block.identity

    def _keeping(self, block: Block, original: Call) -> Call:
        """A block's call, its answer kept on the clean pass where a skipped block hands that on."""
        if not self._keeps(block):
            return original

        @torch.compiler.disable
        def keep(answer: Any) -> Any:
            if self.mode == CLEAN:
                self.kept[block.index] = self._copied(block.returned(answer))
            return answer

        return lambda *args, **kwargs: keep(original(*args, **kwargs))

    @torch.compiler.disable
    def _enter(self, block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note where the image tokens are, and exchange streams if that is not done yet."""
        if self.thread != threading.get_ident():
            raise Busy(f"this {self.network.backbone.name} serves a guided run; wait for its end")
        if self.around != block.index + 1:
            args, kwargs = self._exchange(block, args, kwargs)
        self.taps.locate(block, block.streams(args, kwargs), self.now.image, self.now.references)
        return args, kwargs

    @torch.compiler.disable
    def _exchange(self, block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record the streams that enter a resume block, or put the recorded ones in."""
        if block.index not in self.wanted.resume:
            return args, kwargs
        if self.mode == CLEAN:
            self.recorded[block.index] = self._copied(block.streams(args, kwargs))
        elif self.mode == block.index + 1:
            self.resumed += 1
            held = self._copied(self._held(self.recorded[block.index]))
            # streams of the conditional rows, recorded in a call of all rows, may be padded for a longer text of other rows
            mine = block.streams(args, kwargs)  # fewer rows may need less padding
            return block.with_streams(args, kwargs, {name: held[name][:, :mine[name].shape[1]] for name in mine})
        return args, kwargs

    def _copied(self, streams: Tokens) -> Tokens:
        """Streams that a block may write into."""
        if not self.network.backbone.in_place:
            return streams
        return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in streams.items()}

    def _held(self, streams: Tokens) -> Tokens:
        rows = slice(None) if self.now.rows is None else self.now.rows
        rows = self.now.frames.rows(rows) if self.now.frames else rows
        parts = {name: value[rows] for name, value in streams.items()}
        return {n: torch.cat([v] * self.now.repeat) if self.now.repeat > 1 else v for n, v in parts.items()}

    @torch.compiler.disable
    def _change(self, block: Block, original: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block's call in a pass that changes blocks."""
        changer = self.now.changers.get(block.index)
        if changer is None:
            return original(*args, **kwargs)
        self.changed[block.index] = self.changed.get(block.index, 0) + 1

        # the block itself, for streams in which a branch sees the image tokens alone, at the end
        def run(streams: Tokens) -> Tokens:
            new_args, new_kwargs = block.with_streams(args, kwargs, self._joined(block, streams, sides))
            return self._parted(block, block.returned(original(*new_args, **new_kwargs)))

        given = block.streams(args, kwargs)
        sides = block.sides(given)
        return block.as_returned(self._joined(block, changer(self._parted(block, given), run), sides))

    def _parted(self, block: Block, streams: Tokens) -> Tokens:
        now = self.now
        opened = {name: now.packing.opened(value) for name, value in streams.items()} if now.packing else streams
        behind = opened[block.stack.streams[0]].shape[1] - now.image if block.stack.padded else now.references
        parts = block.parted(opened, now.image, behind)
        parts = {name: now.frames.opened(value) for name, value in parts.items()} if now.frames else parts
        return {X: parts.pop(block.stack.streams[0]), **parts}

    def _joined(self, block: Block, parts: Tokens, sides: tuple[int, ...]) -> Tokens:
        frames, parts = self.now.frames, dict(parts)
        parts = {name: frames.closed(value) for name, value in parts.items()} if frames else parts
        packing, streams = self.now.packing, block.joined({block.stack.streams[0]: parts.pop(X), **parts}, sides)
        return {name: packing.closed(value) for name, value in streams.items()} if packing else streams


def blocks_of(network: Network, branches: Iterable[Any], made: Blocks | None = None) -> Blocks:
    """The wrappers for `branches` in `network`; those `made` for a run before, where they still fit."""
    wanted = Wanted.of(branches)
    return made if made and made.wanted == wanted and made.fits(network) else Blocks(network, wanted)
