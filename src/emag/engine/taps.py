"""The attention modules of a network with taps in them."""

from collections.abc import Callable
from typing import Any

import torch

from ..errors import NoEffect, Unsupported
from . import each_sample
from .block import Block
from .framed import Frames
from .network import Network
from .packed import Packing
from .seam import Handler, Seam, is_native, native_backend
from .split import SplitTokens
from .undo import Undo, put_on, undone

Tap = tuple[int, bool]
"""Block number, and whether its cross-attention is meant."""


class Taps:
    """Wrappers for attention modules. handlers: what to do with tapped calls in the current pass; looks: with those that are
    only looked at; packing: where its rows
    hold their image tokens, or that they are frames; split: how they are spread over processes. fired: calls, by tap.

    A network's cross-attention is tapped where it is a module of its own.
    """

    def __init__(self, network: Network, tapped: frozenset[Tap]):
        self.network, self.tapped = network, tapped
        self.handlers: dict[Tap, Handler] = {}
        self.looks: dict[Tap, Handler] = {}
        self.fired: dict[Tap, int] = {}
        self.packing: Packing | Frames | None = None
        self.split: SplitTokens | None = None
        self._image: dict[int, tuple[slice, int]] = {}
        self._lengths: dict[int, tuple[int, ...]] = {}
        self._references = 0
        found = [(network.blocks[at], cross) for at, cross in sorted(tapped)]
        modules = [self._checked(*tap) for tap in found]
        # a block that is an attention module has its tap inside its own wrapper
        self.wrappers = [(module, "forward", module.forward, self._tapping(*tap, module.forward))
                         for module, tap in zip(modules, found) if network.slot is None and not tap[0].bare]

    def clear(self) -> None:
        """Drop everything a run left."""
        self.fired.clear()
        self._image.clear()

    def locate(self, block: Block, streams: dict[str, torch.Tensor], image: int, references: int = 0) -> None:
        """Note where the image tokens of a block are, before its attention is called."""
        if self.split is None:
            self._image[block.index] = image_tokens(block, streams, image, references)
        elif references:
            raise Unsupported("reference images in a sequence that is split over processes are not told from the image in "
                              "the making: turn context parallelism off")
        else:
            self._lengths[block.index] = lengths = self.split.lengths(block, streams, image)
            self._image[block.index] = self.split.image(block, lengths)
        self._references = references

    def opened(self, block: Block, original: Callable[..., Any]) -> Callable[..., Any]:
        """A block's forward whose attention calls come to us where a handler waits for them: through the host's slot, or
        because the block is an attention module itself."""
        slot, mine = self.network.slot, [tap for tap in sorted(self.tapped) if tap[0] == block.index]
        if slot is None:
            return self._tapping(block, mine[0][1], original) if block.bare else original

        @torch.compiler.disable
        def forward(*args: Any, **kwargs: Any) -> Any:
            seams = {tap: seam for tap in mine if (seam := self._waiting(block, tap[1])) is not None}
            if not seams:
                return original(*args, **kwargs)

            def served(undo: Undo) -> Any:
                slot.put(list(seams.values()), undo)
                return original(*args, **kwargs)

            out = undone(served)
            for tap, seam in seams.items():
                if seam.fired != 1:
                    raise NoEffect(not_offered(self.network.backbone.name, block, seam))
                self.fired[tap] = self.fired.get(tap, 0) + 1
            return out

        return forward

    def _waiting(self, block: Block, cross: bool) -> Seam | None:
        """What waits for a call of a block in this pass. Its cross-attention is called after the attention to itself."""
        tap, module = (block.index, cross), block.cross if cross else block.attention
        handler = self.handlers.get(tap) or self.looks.get(tap)
        if handler is None or module is None:
            return None
        handler = self.packing.around(handler) if self.packing else handler
        image, length = self._image[block.index]
        before = calls_before(block, module, cross) + cross
        return Seam(length, image, handler, cross, self._references, before, once=True)

    def _checked(self, block: Block, cross: bool) -> torch.nn.Module:
        """The module to tap. Raises `Unsupported` where there is none, or none of the kind."""
        module = block.cross if cross else block.attention
        name = self.network.backbone.name
        if module is None:
            raise Unsupported(f"{name} has no cross-attention of its own in block {block.index}")
        if block.stack.linear and not cross:
            raise Unsupported(f"the self-attention of {name} {block.stack.mapless}. "
                              "Use a method that skips blocks (SLG), or one that works in the cross-attention (cross=True)")
        known = bool(block.stack.keys) or block.stack.to_itself  # where the module's own word is about something else
        to_text = block.cross is module if known else getattr(module, "is_cross_attention", False)
        if to_text and not cross:
            raise Unsupported(f"the first attention of block {block.index} of this {name} is to the text, not to the image "
                              "itself: name layers that have a self-attention, or use cross=True where the method has it")
        return module

    def _tapping(self, block: Block, cross: bool, original: Callable[..., Any]) -> Callable[..., Any]:
        tap = self._tap

        def forward(*args: Any, **kwargs: Any) -> Any:
            return tap(block, cross, original, args, kwargs)

        return forward

    @torch.compiler.disable
    def _tap(self, block: Block, cross: bool, original: Callable[..., Any], args: tuple[Any, ...],
             kwargs: dict[str, Any]) -> Any:
        module = block.cross if cross else block.attention
        assert module is not None
        handler = self.handlers.get((block.index, cross))
        if handler is None and is_native(module):  # another backend is left to itself where nothing is changed
            handler = self.looks.get((block.index, cross))
        if handler is None:
            return original(*args, **kwargs)
        handler = self.packing.around(handler) if self.packing else handler
        handler = self.split.around(handler, self._lengths[block.index]) if self.split else handler
        image, length = self._image[block.index]

        def one_by_one(undo: Undo) -> tuple[Any, float]:
            native_backend(module, undo)
            out, calls = each_sample.run_each(original, args, kwargs, image, length, handler)
            return out, calls / len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

        def at_once(undo: Undo) -> tuple[Any, float]:
            native_backend(module, undo)
            seam = Seam(length, image, handler, cross, self._references, calls_before(block, module, cross),
                        with_pictures(kwargs, cross), () if cross else block.stack.keys, block.stack.apart)
            put_on(undo, seam)
            return original(*args, **kwargs), seam.fired

        # exactly one call was ours, or what was tapped is not what the entry says
        out, fired = undone(one_by_one if block.stack.each_sample else at_once)
        if fired != 1:
            raise NoEffect(_not_seen(block, module, fired, length))
        self.fired[block.index, cross] = self.fired.get((block.index, cross), 0) + 1
        return out


def calls_before(block: Block, module: torch.nn.Module, cross: bool) -> int:
    """Calls to a picture that a cross-attention makes before the one to the text."""
    marked = block.stack.cross_picture
    return int(cross and marked is not None and getattr(module, marked, None) is not None)


def with_pictures(kwargs: dict[str, Any], cross: bool) -> bool:
    """True where a cross-attention is given (text, pictures), as an IP-Adapter does it: calls to the pictures follow."""
    return cross and isinstance(kwargs.get("encoder_hidden_states"), tuple)


def image_tokens(block: Block, streams: dict[str, torch.Tensor], count: int, references: int = 0) -> tuple[slice, int]:
    """Where the image tokens sit in the attention's sequence, and its length. count: image tokens of a merged or padded
    stream; references: those of reference images behind them."""
    pictures = block.length(streams)
    if block.stack.apart:
        return slice(0, count), count
    if block.merged:
        start = 0 if block.stack.tokens[0] == "image" else pictures - references - count
        return slice(start, start + count), pictures
    image = count if block.stack.padded else pictures - references
    if block.stack.tokens == ("image",):
        return slice(0, image), pictures
    text = streams[block.stack.streams[1]].shape[1]
    start = 0 if block.stack.tokens[0] == "image" else text
    return slice(start, start + image), pictures + text


def _not_seen(block: Block, module: torch.nn.Module, fired: float, length: int) -> str:
    processor = type(getattr(module, "processor", module)).__name__
    return (f"block {block.index}: {processor} made {fired:g} calls of scaled_dot_product_attention with {length} queries, "
            "expected 1. Use the model's default attention processor (or one that calls it), or leave this guidance off.")


def not_offered(name: str, block: Block, seam: Seam) -> str:
    """What to say where a host offered no such call."""
    kind = "cross-attention" if seam.cross else "attention"
    return (f"block {block.index} of {name}: the host offered no {kind} call of {seam.length} tokens. Either this network "
            "does not pass transformer_options to its attention, or another extension took the place of its attention: "
            "leave that out, or choose a method that skips blocks (slg)")
