"""One block of a network, held against its stack: where its streams sit in a call, and what it returns."""

import inspect
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from ..errors import Unsupported
from ..families import Stack


@dataclass(frozen=True)
class Block:
    """One block of a network: where its streams sit among its arguments, and its attention module."""

    index: int
    module: torch.nn.Module
    attention: torch.nn.Module
    stack: Stack
    positions: tuple[int, ...]
    cross: torch.nn.Module | None = None

    @property
    def bare(self) -> bool:
        """True where it is an attention module and nothing else."""
        return self.module in (self.attention, self.cross)

    @property
    def merged(self) -> bool:
        """True where one stream holds image and text tokens."""
        return len(self.stack.tokens) > len(self.stack.streams)

    def has_text(self, cross: bool) -> bool:
        """True where image tokens see text in the block's attention, or in its cross-attention."""
        return self.cross is not None if cross else self.stack.sees_text

    def streams(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The streams of one call of this block, by name, in declared order, rows first."""
        return {name: self._opened(kwargs[name] if name in kwargs else args[at])
                for name, at in zip(self.stack.streams, self.positions)}

    def _opened(self, stream: Any) -> Any:
        """A stream with rows first where it has tokens first, or no rows."""
        if self.stack.rowless:
            return stream.unsqueeze(0)
        return stream.transpose(0, 1) if self.stack.sequence_first else stream

    def _closed(self, stream: Any) -> Any:
        """The inverse of `_opened`."""
        if self.stack.rowless:
            return stream.squeeze(0)
        return stream.transpose(0, 1) if self.stack.sequence_first else stream

    def with_streams(self, args: tuple[Any, ...], kwargs: dict[str, Any],
                     streams: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same call with other streams."""
        new_args, new_kwargs = list(args), dict(kwargs)
        for name, at in zip(self.stack.streams, self.positions):
            if name in kwargs:
                new_kwargs[name] = self._closed(streams[name])
            else:
                new_args[at] = self._closed(streams[name])
        return tuple(new_args), new_kwargs

    def returned(self, answer: Any) -> dict[str, Any]:
        """What the block returned, by stream; streams it does not return are left out."""
        values = (answer,) if len(self.stack.returns) == 1 else answer
        return dict(zip(self.stack.returns, map(self._opened, values)))

    def as_returned(self, streams: dict[str, Any]) -> Any:
        """Streams in the form in which the block returns them."""
        if len(self.stack.returns) == 1:
            return self._closed(streams[self.stack.returns[0]])
        return tuple(self._closed(streams[name]) for name in self.stack.returns)

    def sides(self, streams: dict[str, Any]) -> tuple[int, ...]:
        """Sides of the map that its first stream is; () where that is a sequence of tokens."""
        return tuple(streams[self.stack.streams[0]].shape[2:]) if self.stack.spatial else ()

    def length(self, streams: dict[str, Any]) -> int:
        """Tokens of its first stream."""
        return prod(self.sides(streams)) if self.stack.spatial else streams[self.stack.streams[0]].shape[1]

    def parted(self, streams: dict[str, Any], image: int, references: int = 0) -> dict[str, Any]:
        """Streams with the `image` image tokens apart from a text and from `references` tokens behind them; maps as
        tokens."""
        name, whole = self.stack.streams[0], streams[self.stack.streams[0]]
        parts = dict(streams)
        if self.stack.spatial:
            return {**parts, name: whole.flatten(2).mT}
        if self.merged:
            # one stream holds both: the image, with references behind it, before the text or after it
            at = image + references if self.stack.tokens[0] == "image" else whole.shape[1] - image - references
            kinds = dict(zip(self.stack.tokens, (whole[:, :at], whole[:, at:])))
            parts = {name: kinds["image"], "text": kinds["text"]}
        if references:
            pictures = parts[name]
            parts |= {name: pictures[:, :-references], "references": pictures[:, -references:]}
        return parts

    def joined(self, parts: dict[str, Any], sides: tuple[int, ...] = ()) -> dict[str, Any]:
        """The inverse of `parted`. sides: of the map that its first stream is, where it is one."""
        name, parts = self.stack.streams[0], dict(parts)
        if sides:
            return {**parts, name: parts[name].mT.unflatten(2, sides)}
        if "references" in parts:
            parts[name] = torch.cat([parts[name], parts.pop("references")], 1)
        if not self.merged:
            return parts
        kinds = {"image": parts[name], "text": parts["text"]}
        return {name: torch.cat([kinds[kind] for kind in self.stack.tokens], 1)}

    def identity(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the block returns if it hands its streams on untouched."""
        return self.as_returned(self.streams(args, kwargs))


def block(index: int, stack: Stack, module: torch.nn.Module) -> Block:
    """Hold a module against its stack. Raises `Unsupported` where it does not fit."""
    try:
        attention = module.get_submodule(stack.attention)
    except AttributeError:
        raise Unsupported(f"block {index} ({type(module).__name__}) has no attention module {stack.attention!r}") from None
    cross = getattr(module, stack.cross, None) if stack.cross else None
    if stack.keys and (getattr(attention, "only_cross_attention", False) or not getattr(module, "self_attn", True)):
        cross = attention
    return Block(index, module, attention, stack, stack.places or _places(index, stack, module), cross)


def _places(index: int, stack: Stack, module: torch.nn.Module) -> tuple[int, ...]:
    """Where the streams sit among the arguments that a block's forward names."""
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    missing = [name for name in stack.streams if name not in names]
    if missing:
        raise Unsupported(f"block {index} ({type(module).__name__}) takes no argument {', '.join(missing)}")
    return tuple(names.index(name) for name in stack.streams)
